"""A law ready for use: a form with its parameters, where it holds, and how well it is known.

Made by a fit, read from a file that a fit wrote, or published. A published law without its points
has no spread of its own, and predictions with it carry no interval.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from plimsoll.laws.fit import Fit, form_of
from plimsoll.laws.forms import FORMS
from plimsoll.laws.forms.chinchilla import CHINCHILLA_PUBLISHED, CHINCHILLA_REFIT
from plimsoll.laws.forms.contract import MAY_BE_ZERO, Floats, LossForm
from plimsoll.laws.forms.farseer import FARSEER_PUBLISHED
from plimsoll.laws.forms.kaplan import KAPLAN_PUBLISHED
from plimsoll.laws.forms.parscale import PARSCALE_PILE, PARSCALE_STACK
from plimsoll.laws.forms.repeats import REPEATS_PUBLISHED
from plimsoll.laws.surface import Surface
from plimsoll.laws.table import Unit
from plimsoll.spec.errors import SpecError, suggest
from plimsoll.spec.io import PLAIN, read

__all__ = ["PUBLISHED", "Law", "SavedLaw", "law_of", "law_of_fit", "saved"]

_DRAWS_KEPT = 100
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Law(Surface):
    """``box``: the range of each input in the fit; ``rmse`` of ln-residuals, None if unknown;
    ``draws`` [b, k]: coordinates of resampled fits, empty if there are none."""

    name: str
    box: Mapping[str, tuple[float, float]]
    rmse: float | None
    unit: Unit
    points: int
    source: str
    draws: Floats = field(default_factory=lambda: np.empty((0, 0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedLaw:
    """A law as a file. ``draws``: parameters of resampled fits."""

    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: Literal[1] = 1
    kind: Literal["law"] = "law"
    form: str
    parameters: dict[str, float]
    box: dict[str, tuple[Annotated[float, Field(ge=0)], Positive]]
    unit: Unit = "nats"
    rmse: Annotated[float, Field(ge=0)] | None = None
    points: Annotated[int, Field(ge=0)] = 0
    source: str = ""
    draws: tuple[dict[str, float], ...] = ()


def law_of_fit(found: Fit) -> Law:
    """What a fit found, without its points."""
    return Law(
        name=found.form.name,
        form=found.form,
        theta=found.theta,
        box=found.box,
        rmse=found.rmse,
        unit=found.unit,
        points=len(found.table),
        source=f"fitted to {len(found.table)} points of {found.table.name}",
        draws=found.draws,
    )


def saved(law: Law) -> SavedLaw:
    """The law as plain data, with at most a hundred of its draws."""
    return SavedLaw(
        form=law.form.name,
        parameters=law.named,
        box=dict(law.box),
        unit=law.unit,
        rmse=law.rmse,
        points=law.points,
        source=law.source,
        draws=tuple(law.form.named(draw) for draw in law.draws[:_DRAWS_KEPT]),
    )


def _loaded(path: Path) -> Law:
    file = read(SavedLaw, path)
    if file.form not in FORMS:
        raise SpecError(f"{path}: no form {file.form!r}.{suggest(file.form, FORMS)}")
    form = form_of(file.form)
    theta, *draws = (_coordinates(path, form, named) for named in (file.parameters, *file.draws))
    for name in form.inputs:
        low, high = file.box.get(name, (1.0, 0.0))
        if low > high or (low == 0 and name not in MAY_BE_ZERO):
            raise SpecError(f"{path}: box.{name} is missing or not from low to high")
    return Law(
        name=str(path),
        form=form,
        theta=theta,
        box=file.box,
        rmse=file.rmse,
        unit=file.unit,
        points=file.points,
        source=file.source or str(path),
        draws=np.array(draws) if draws else np.empty((0, 0)),
    )


def _coordinates(path: Path, form: LossForm, named: Mapping[str, float]) -> Floats:
    """Of parameters in a file.

    Raises:
        SpecError: other parameters than the form's, or values it cannot have.
    """
    wanted = list(form.named(np.array([c.high for c in form.coordinates])))
    if set(named) != set(wanted):
        raise SpecError(
            f"{path}: parameters are {', '.join(named)}; {form.name} has {', '.join(wanted)}"
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        theta = form.coordinates_of(named)
    bad = np.flatnonzero(~np.isfinite(theta))
    if len(bad):
        name = form.coordinates[bad[0]].name.removeprefix("ln ")
        raise SpecError(f"{path}: {name} is {named[name]:g}; {form.name} needs it above zero")
    return theta


def _published(
    name: str,
    form: str,
    parameters: Mapping[str, float],
    params: tuple[float, float],
    tokens: tuple[float, float],
    points: int,
    source: str,
    unique: tuple[float, float] | None = None,
    unit: Unit = "nats",
) -> Law:
    found = form_of(form)
    return Law(
        name=name,
        form=found,
        theta=found.coordinates_of(parameters),
        box={"params": params, "tokens": tokens, **({"unique": unique} if unique else {})},
        rmse=None,
        unit=unit,
        points=points,
        source=source,
    )


def _of_streams(name: str, parameters: Mapping[str, float], rmse: float, corpus: str) -> Law:
    form = form_of("parscale")
    return Law(
        name=name,
        form=form,
        theta=form.coordinates_of(parameters),
        box={"params": (5.35e8, 4.42e9), "streams": (1.0, 8.0)},
        rmse=rmse,
        unit="nats",
        points=24,
        source=f"a fit to the losses of arXiv 2505.10475 on {corpus}; sizes without embeddings",
    )


PUBLISHED: dict[str, Law] = {
    law.name: law
    for law in (
        _published(
            "chinchilla",
            "chinchilla",
            CHINCHILLA_REFIT,
            (4.4e7, 1.6e10),
            (2e8, 5e11),
            240,
            "arXiv 2404.10102, a refit of the points of arXiv 2203.15556",
        ),
        _published(
            "chinchilla-original",
            "chinchilla",
            CHINCHILLA_PUBLISHED,
            (4.4e7, 1.6e10),
            (2e8, 5e11),
            400,
            "arXiv 2203.15556, approach 3",
        ),
        _published(
            "kaplan",
            "kaplan",
            KAPLAN_PUBLISHED,
            (7.7e2, 1.5e9),
            (2.2e7, 2.3e10),
            0,
            "arXiv 2001.08361; sizes without embeddings",
        ),
        _published(
            "farseer",
            "farseer",
            FARSEER_PUBLISHED,
            (2.01e8, 6.4e9),
            (1e9, 5.12e11),
            404,
            "arXiv 2506.10972; bits a character of English text, sizes without embeddings",
            unit="bits",
        ),
        _published(
            "repeats",
            "repeats",
            REPEATS_PUBLISHED,
            (7.1e6, 8.67e9),
            (1e8, 9e11),
            182,
            "arXiv 2305.16264, appendix A; C4",
            unique=(1e8, 1.78e11),
        ),
        _of_streams("parscale-stack", PARSCALE_STACK, 0.00245, "Stack-V2-Python"),
        _of_streams("parscale-pile", PARSCALE_PILE, 0.00182, "the Pile"),
    )
}
"""Laws as printed. Their losses are of their own data and vocabulary: compare sizes and tokens
across them, not losses."""


def law_of(text: str) -> Law:
    """A published law by name, or one that ``laws fit --out`` wrote.

    Raises:
        SpecError: neither, or a file that is no law.
    """
    if text in PUBLISHED:
        return PUBLISHED[text]
    path = Path(text)
    if path.suffix == ".csv":
        raise SpecError(
            f"{text}: a table, no law; fit one first: plimsoll laws fit {text} --out law.yaml"
        )
    if path.suffix in (".yaml", ".yml", ".json") or path.exists():
        return _loaded(path)
    raise SpecError(
        f"no law {text!r}; there are {', '.join(PUBLISHED)}, or a file that laws fit --out wrote."
        f"{suggest(text, PUBLISHED)}"
    )
