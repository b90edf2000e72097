"""The tables of runs on which all forms are compared: published measurements, runs of tiny models
trained here, and points made of a law.

Leaves out: runs of one's own, for which there is ``plimsoll laws compare``.
"""

from collections.abc import Iterator
from dataclasses import replace

from plimsoll.catalog.contract import Context
from plimsoll.catalog.farseer import overtraining, sampled
from plimsoll.catalog.farseer_real import grid_table
from plimsoll.catalog.massiveds_runs import read_store_runs, table_of
from plimsoll.catalog.parscale_published import losses
from plimsoll.laws.repeats import MEASURED_EPOCHS
from plimsoll.laws.table import LossTable, read_table

__all__ = ["tables"]

_CORPORA = {"c4_original": "C4", "rpj": "RedPajama", "rw_original": "RefinedWeb"}
_STREAMS = {"stack": "Stack-V2-Python", "pile": "the Pile"}
_REPEATS = {"params": "params", "tokens": "tokens_seen", "unique": "unique_tokens"}
_NOISE = 0.001


def tables(context: Context) -> Iterator[tuple[str, LossTable]]:
    """Tables with a short name each."""
    for corpus, title in _CORPORA.items():
        table = overtraining(context, corpus)
        yield title, replace(table, name=f"over-training runs on {title}")
    path = context.file("laws/datablations_val_losses.csv")
    runs = read_table(path, _REPEATS, loss="val_loss_c4")
    few = runs.columns["tokens"] <= MEASURED_EPOCHS * runs.columns["unique"]
    title = f"runs on repeated tokens of C4, up to {MEASURED_EPOCHS:g} epochs"
    yield "repeated", replace(runs.rows(few), name=title, lines=())
    surface = sampled(_NOISE, 0)
    yield "made", replace(surface, name=f"points made of Farseer's surface, {_NOISE:.1%} noise")
    yield "tiny", replace(grid_table(), name="tiny models of text, trained here", lines=())
    yield "store", table_of(read_store_runs())
    for corpus, title in _STREAMS.items():
        yield title, replace(losses(corpus), name=f"parallel streams on {title}")
