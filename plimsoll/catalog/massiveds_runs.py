"""Accuracy and loss of tiny models with parts of a store, as measured, and the law fitted to them.

The table is written by ``scripts/write_store_runs.py`` and lies in the library with what made it.
A row is a model (width, seed, steps of training) with a fraction of its world's store, 0 for none.
"""

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import numpy as np

from plimsoll.laws.fit import fit, form_of
from plimsoll.laws.law import Law, law_of_fit
from plimsoll.laws.table import LossTable
from plimsoll.spec.io import PLAIN, read

__all__ = ["TABLE", "StoreRow", "StoreRuns", "read_store_runs", "store_law", "table_of"]

_NOTHING = 1e-30
TABLE = Path(str(files("plimsoll.library"))) / "laws" / "store_runs.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRow:
    """``params`` with embeddings; ``tokens`` trained on; ``datastore`` tokens to retrieve from;
    ``accuracy`` over all facts, ``loss`` in nats an answer."""

    __pydantic_config__: ClassVar = PLAIN
    width: int
    seed: int
    steps: int
    params: int
    tokens: int
    fraction: float
    datastore: int
    accuracy: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRuns:
    """The table with its provenance. ``retriever_params``: what the encoder multiplies a token."""

    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: int = 1
    source: str
    as_of: str
    script: str
    made_with: str
    settings: str
    retriever_params: float
    rows: tuple[StoreRow, ...]


def read_store_runs(path: Path = TABLE) -> StoreRuns:
    """The stored table."""
    return read(StoreRuns, path)


def table_of(runs: StoreRuns) -> LossTable:
    """Its losses; seeds of a setting are averaged by the fit."""
    return LossTable(
        name="tiny models with a store",
        columns={
            "params": np.array([row.params for row in runs.rows], dtype=float),
            "tokens": np.array([row.tokens for row in runs.rows], dtype=float),
            "datastore": np.array([row.datastore for row in runs.rows], dtype=float),
        },
        loss=np.array([row.loss for row in runs.rows]),
    )


def store_law(*, worthless: bool = False) -> Law:
    """The law of the table; ``worthless``: the same if no store took anything from the loss."""
    law = law_of_fit(fit(form_of("datastore"), table_of(read_store_runs())))
    if not worthless:
        return law
    named = {**law.named, "E": law.named["E"] + law.named["C"], "C": _NOTHING}
    return replace(law, theta=law.form.coordinates_of(named))
