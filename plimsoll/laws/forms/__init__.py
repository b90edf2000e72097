"""The published forms, each with its parameters, bounds, gradient, limits and source."""

from plimsoll.laws.forms.chinchilla import Chinchilla, ChinchillaQ
from plimsoll.laws.forms.contract import Coordinate, Floats, Inputs, LossForm
from plimsoll.laws.forms.datastore import DatastoreTerm
from plimsoll.laws.forms.farseer import Farseer
from plimsoll.laws.forms.kaplan import Kaplan
from plimsoll.laws.forms.parscale import ParScale, PowerStreams
from plimsoll.laws.forms.repeats import RepeatedData, RepeatedDataAndSize

__all__ = [
    "FORMS",
    "Chinchilla",
    "ChinchillaQ",
    "Coordinate",
    "DatastoreTerm",
    "Farseer",
    "Floats",
    "Inputs",
    "Kaplan",
    "LossForm",
    "ParScale",
    "PowerStreams",
    "RepeatedData",
    "RepeatedDataAndSize",
]

FORMS: dict[str, LossForm] = {
    form.name: form
    for form in (
        Chinchilla(),
        ChinchillaQ(),
        Kaplan(),
        Farseer(),
        ParScale(),
        PowerStreams(),
        RepeatedData(),
        RepeatedDataAndSize(),
        DatastoreTerm(),
    )
}
"""By name, as ``plimsoll laws fit --form`` has them."""
