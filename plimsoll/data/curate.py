"""From a column of quality scores to pools, and from a choice of pools to a threshold.

Examples are ranked by score, higher is better, and cut into pools of equal size; how many of the
best to keep is for a law of quality and quantity to say (``laws/quality.py: best_pool``). Equal
scores are ranked by position, so the same column always gives the same pools.
Left out: learning the scores; several columns at once.
Source: arXiv 2404.07177, section 3.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plimsoll.spec.errors import SpecError

__all__ = ["RankedPools", "rank_pools"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedPools:
    """``pool`` [n] of each example, 0 the best; ``edges`` [pools]: the lowest score in each,
    ``tops`` the highest."""

    pool: npt.NDArray[np.int64]
    edges: npt.NDArray[np.float64]
    tops: npt.NDArray[np.float64]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Examples in each."""
        return tuple(np.bincount(self.pool, minlength=len(self.edges)).tolist())

    def threshold(self, kept: int) -> float:
        """Keep scores of this or more to keep the ``kept`` best pools.

        Raises:
            SpecError: there are not so many, or a tie at the edge would keep more than these.
        """
        if not 1 <= kept <= len(self.edges):
            raise SpecError(f"{kept} pools kept of {len(self.edges)}; expected 1 or more of them")
        if kept < len(self.edges) and self.tops[kept] >= self.edges[kept - 1]:
            raise SpecError(
                f"pools {kept} and {kept + 1} share the score {self.edges[kept - 1]:g}, so no "
                "threshold parts them; keep by ``pool`` instead"
            )
        return float(self.edges[kept - 1])

    def keeps(self, kept: int) -> npt.NDArray[np.bool_]:
        """Marks the examples of the ``kept`` best pools, [n]."""
        return self.pool < kept


def rank_pools(scores: npt.ArrayLike, num_pools: int) -> RankedPools:
    """Pools of equal size, but for a remainder that the first ones take.

    Raises:
        SpecError: scores that are not numbers or all the same, or fewer than pools.
    """
    column = np.asarray(scores, dtype=float)
    if column.ndim != 1 or not np.isfinite(column).all():
        raise SpecError("scores are not a column of numbers; expected one finite score an example")
    if not 1 <= num_pools <= len(column):
        raise SpecError(f"{num_pools} pools of {len(column)} examples; expected 1 or more each")
    if len(column) > 1 and column.min() == column.max():
        raise SpecError(f"all {len(column)} scores are {column[0]:g}; they rank nothing")
    order = np.argsort(-column, kind="stable")
    pool = np.empty(len(column), dtype=np.int64)
    edges, tops = [], []
    for index, part in enumerate(np.array_split(order, num_pools)):
        pool[part] = index
        edges.append(column[part].min())
        tops.append(column[part].max())
    return RankedPools(pool=pool, edges=np.array(edges), tops=np.array(tops))
