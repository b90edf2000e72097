"""Cards of the forms of a loss surface: what the form itself does not know."""

from typing import Any

from plimsoll.laws.cards.contract import LawCard, card_of_form
from plimsoll.laws.forms import FORMS, LossForm
from plimsoll.laws.forms.two_powers import TwoPowers

__all__ = ["LOSS_CARDS"]

_FIT = "plimsoll laws fit runs.csv --form {} --out law.yaml"
_PREDICT = """\
from plimsoll.laws.law import PUBLISHED
from plimsoll.laws.predict import predict

print(predict(PUBLISHED["{}"], {{"params": 7e9, "tokens": 2e12}}).loss)
"""
_STREAMS = """\
import numpy as np
from plimsoll.laws.fit import fit, form_of
from plimsoll.laws.table import LossTable

sizes, streams = np.repeat([5e8, 1e9, 2e9, 4e9], 3), np.tile([1.0, 2.0, 4.0], 4)
loss = 0.7 + (0.012e9 / (sizes * (0.4 * np.log(streams) + 1))) ** 0.19
runs = LossTable(name="runs", columns={{"params": sizes, "streams": streams}}, loss=loss)
print(fit(form_of("{}"), runs).named)
"""
_OWN = """\
import numpy as np
from plimsoll.laws.fit import fit
from plimsoll.laws.forms import ChinchillaQ
from plimsoll.laws.table import LossTable

sizes, tokens = (a.ravel() for a in np.meshgrid([1e8, 3e8, 1e9, 3e9], [2e9, 8e9, 3e10, 1e11]))
loss = 1.7 + (300 / sizes**0.4 + 400 / tokens**0.35) ** 0.8
runs = LossTable(name="runs", columns={"params": sizes, "tokens": tokens}, loss=loss)
print(fit(ChinchillaQ(), runs).named)
"""
_REPEATED = """\
from plimsoll.laws.law import PUBLISHED
from plimsoll.laws.predict import predict
from plimsoll.laws.repeats import worth

run = {"params": 3e9, "tokens": 1e11, "unique": 2e10}
print(worth(1e11, 2e10), predict(PUBLISHED["repeats"], run).loss)
"""
_TWO = """\
import numpy as np
from plimsoll.laws.fit import fit
from plimsoll.laws.forms.two_powers import TwoPowers
from plimsoll.laws.table import LossTable

sizes, tokens = (a.ravel() for a in np.meshgrid([5e6, 3e7, 1e8, 8e8], [1e9, 4e9, 1e10, 4e10]))
loss = 20 / sizes**0.2 + 60 / tokens**0.25
runs = LossTable(name="runs", columns={"params": sizes, "tokens": tokens}, loss=loss)
print(fit(TwoPowers(), runs).named)
"""

_FACTS: dict[str, dict[str, Any]] = {
    "chinchilla": {
        "fitted_on": "published: over 400 runs of 44M to 16B parameters on 200M to 500B tokens; "
        "the refit, which corrects it, read 240 points off the figure",
        "command": "plimsoll laws predict --law chinchilla --params 7B --tokens 2T",
        "example": _PREDICT.format("chinchilla"),
        "evidence": {"farseer": ("real", "refit")},
    },
    "chinchilla-q": {
        "fitted_on": "no published constants: fit your own runs",
        "command": _FIT.format("chinchilla-q"),
        "example": _OWN,
        "evidence": {"farseer": ("error",)},
    },
    "kaplan": {
        "fitted_on": "published: runs of 770 to 1.5B parameters without embeddings on 22M to 23B "
        "tokens",
        "command": "plimsoll laws predict --law kaplan --params 1B --tokens 20B",
        "example": _PREDICT.format("kaplan"),
    },
    "farseer": {
        "fitted_on": "published: about 1,000 runs of 201M to 25.1B parameters without embeddings, "
        "404 of them, up to 6.4B on 1B to 512B tokens, released; own runs need 8 sizes with 5 "
        "token counts each",
        "command": "plimsoll laws predict --law farseer --params 3B --tokens 300B",
        "example": _PREDICT.format("farseer"),
        "evidence": {"farseer": ("error", "ratio", "real", "allocation")},
        "gradient": "exact, of ln L by every parameter, for intervals; fitted in stages: "
        "differences along tokens, then lines over sizes, then the floor",
    },
    "parscale": {
        "fitted_on": "published: 24 runs of 0.5B to 4.4B parameters with 1, 2, 4 and 8 streams on "
        "each of two corpora, as many tokens for all",
        "command": _FIT.format("parscale") + " --columns params=N,streams=P",
        "example": _STREAMS.format("parscale"),
        "evidence": {"parscale": ("law",)},
    },
    "power-streams": {
        "fitted_on": "no published constants: the rival that parscale is held against",
        "command": _FIT.format("power-streams") + " --columns params=N,streams=P",
        "example": _STREAMS.format("power-streams"),
        "evidence": {"parscale": ("law",)},
    },
    "repeats": {
        "fitted_on": "published: 182 runs of 7M to 8.7B parameters on 100M to 900B tokens, 100M to "
        "178B of them different",
        "command": "plimsoll laws predict --law repeats --params 3B --tokens 100B --unique 20B",
        "example": _REPEATED,
        "evidence": {"data-filtering": ("limited",)},
    },
    "repeats-tokens": {
        "fitted_on": "no published constants: fit your own runs",
        "command": _FIT.format("repeats-tokens") + " --columns params=N,tokens=D,unique=U",
        "example": _REPEATED,
        "evidence": {"data-filtering": ("limited",)},
    },
    "datastore": {
        "fitted_on": "no published constants: fit your own runs, some of them without a store",
        "command": _FIT.format("datastore") + " --columns params=N,tokens=D,datastore=S",
        "evidence": {"massiveds": ("compute",)},
    },
    "two-powers": {
        "fitted_on": "published: reference models of 5M to 0.8B parameters on 10 to 60 tokens a "
        "parameter, losses of right answers",
        "command": "",
        "example": _TWO,
        "evidence": {"densing-law": ("inversion",)},
    },
}
"""By form; a form without any is fitted to runs of one's own."""


def _card(form: LossForm) -> LawCard:
    own = {
        "fitted_on": "no published constants: fit your own runs",
        "command": _FIT.format(form.name),
    }
    return card_of_form(form, **_FACTS.get(form.name, own))


LOSS_CARDS: tuple[LawCard, ...] = tuple(_card(form) for form in (*FORMS.values(), TwoPowers()))
"""In the order of ``FORMS``; the last is fitted by the law of density, not by ``laws fit``."""
