"""Forms compared on a grid of tiny models that were really trained.

Ten sizes by six token counts (``catalog/tiny_tables.py``). The top tenth by compute is held out
of everything: the form is chosen on the rest, by ``laws.compare.select`` as a user would, and
judged on what nobody saw.
Leaves out: sizes beyond half a million parameters.
"""

import functools

import numpy as np

from plimsoll.catalog.contract import Context, Measured
from plimsoll.catalog.tiny_repeat import repeated
from plimsoll.catalog.tiny_tables import GRID
from plimsoll.laws.compare import Compared, compare, select
from plimsoll.laws.fit import fit
from plimsoll.laws.forms import FORMS
from plimsoll.laws.table import LossTable, read_table
from plimsoll.spec.errors import InfeasibleError

__all__ = ["chosen_over_best", "grid_table", "grid_trained_again", "held_out_errors"]


def grid_table() -> LossTable:
    """The stored grid, seeds averaged."""
    return read_table(GRID, {"params": "params", "tokens": "tokens"}).averaged()
