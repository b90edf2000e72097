"""Seeded workload generators: arrival processes, lengths, sessions, and recipes of all three."""

from plimsoll.spec.generators.arrivals import (
    Arrivals,
    AtOnce,
    ClosedLoop,
    ConstantArrivals,
    DiurnalArrivals,
    GammaArrivals,
    GapQuantiles,
    OnOffArrivals,
    PoissonArrivals,
    SpikeArrivals,
    WindowArrivals,
)
from plimsoll.spec.generators.lengths import (
    ConstantLength,
    Length,
    Lengths,
    LognormalLength,
    MixtureLength,
    QuantileLength,
    UniformLength,
    ZipfLength,
    draw_lengths,
)
from plimsoll.spec.generators.recipe import Recipe, generate
from plimsoll.spec.generators.sessions import Conversations, Independent, MeasuredReuse, Sharing
from plimsoll.spec.generators.streams import stream

__all__ = [
    "Arrivals",
    "AtOnce",
    "ClosedLoop",
    "ConstantArrivals",
    "ConstantLength",
    "Conversations",
    "DiurnalArrivals",
    "GammaArrivals",
    "GapQuantiles",
    "Independent",
    "Length",
    "Lengths",
    "LognormalLength",
    "MeasuredReuse",
    "MixtureLength",
    "OnOffArrivals",
    "PoissonArrivals",
    "QuantileLength",
    "Recipe",
    "Sharing",
    "SpikeArrivals",
    "UniformLength",
    "WindowArrivals",
    "ZipfLength",
    "draw_lengths",
    "generate",
    "stream",
]
