"""Who owes KV blocks to whom, and how debts that run in a circle are cancelled.

A owes B as many blocks as B holds of A's requests. Where A owes B, B owes C and C owes A, every
debt of the circle can fall by the smallest of them: those blocks move home, all at once, into the
room that they leave each other. Net balances stay, and remote reads fall. A chain that does not
close is no circle and is left as it is.
Source: arXiv 2401.02669, first version (debt circles).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from plimsoll.spec.errors import SpecError

__all__ = ["DebtCircle", "DebtGraph"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DebtCircle:
    """Each of ``members`` owes the next, the last the first; ``blocks`` of each debt move home."""

    members: tuple[int, ...]
    blocks: int


class DebtGraph:
    """Debts in blocks between instances, by debtor and creditor."""

    def __init__(self, debts: Mapping[int, Mapping[int, int]]) -> None:
        """``debts[debtor][creditor]`` blocks, copied; zeros are dropped.

        Raises:
            SpecError: a debt is negative, or an instance owes itself.
        """
        self._owed: dict[int, dict[int, int]] = {}
        for debtor, row in debts.items():
            for creditor, blocks in row.items():
                if debtor == creditor:
                    raise SpecError(f"instance {debtor} owes itself {blocks} blocks")
                if blocks < 0:
                    raise SpecError(f"instance {debtor} owes {creditor} {blocks} blocks, below 0")
            self._owed[debtor] = {creditor: n for creditor, n in row.items() if n}

    @property
    def debts(self) -> dict[int, dict[int, int]]:
        """``debts[debtor][creditor]`` blocks that are left, without zeros."""
        return {debtor: dict(row) for debtor, row in self._owed.items() if row}

    @property
    def total(self) -> int:
        """Blocks owed by all together."""
        return sum(sum(row.values()) for row in self._owed.values())

    def net_balances(self) -> dict[int, int]:
        """Blocks lent less blocks owed, of everyone who has either."""
        found: dict[int, int] = {}
        for debtor, row in self._owed.items():
            for creditor, blocks in row.items():
                found[debtor] = found.get(debtor, 0) - blocks
                found[creditor] = found.get(creditor, 0) + blocks
        return found

    def reduce_cycles(
        self,
        *,
        locked: Collection[int] = (),
        settle: Callable[[DebtCircle], bool] | None = None,
    ) -> list[DebtCircle]:
        """Cancel circles until none is left among instances that are not ``locked``.

        ``settle`` moves the blocks of a circle home and says whether it could; a circle that
        could not is left as it was, and its members count as locked from then on. None: all can.
        Returns the circles that were cancelled, in order.
        """
        out = set(locked)
        settled: list[DebtCircle] = []
        done: set[int] = set()
        for start in sorted(self._owed):
            self._walk(start, out, done, settled, settle)
        return settled

    def _walk(
        self,
        start: int,
        out: set[int],
        done: set[int],
        settled: list[DebtCircle],
        settle: Callable[[DebtCircle], bool] | None,
    ) -> None:
        """Depth first from ``start``; instances in ``done`` are on no circle any more."""
        owed = self._owed
        path: list[int] = []
        place: dict[int, int] = {}
        following: int | None = start
        while following is not None or path:
            if following is not None:
                place[following] = len(path)
                path.append(following)
                following = None
            here = path[-1]
            if here in out or here in done:
                path.pop()
                del place[here]
                continue
            target = next((c for c in owed.get(here, ()) if c not in done and c not in out), None)
            if target is None:
                done.add(here)
                path.pop()
                del place[here]
                continue
            if target not in place:
                following = target
                continue
            members = path[place[target] :]
            ends = [*members[1:], members[0]]
            blocks = min(owed[a][b] for a, b in zip(members, ends, strict=True))
            circle = DebtCircle(members=tuple(members), blocks=blocks)
            keep = place[target]
            if settle is not None and not settle(circle):
                out.update(members)
            else:
                settled.append(circle)
                keep += self._cancel(members, ends, blocks)
            for gone in path[keep + 1 :]:
                del place[gone]
            del path[keep + 1 :]

    def _cancel(self, members: list[int], ends: list[int], blocks: int) -> int:
        """Lower each debt; how many members stay on the path before the first debt that ended."""
        first = len(members)
        for i, (debtor, creditor) in enumerate(zip(members, ends, strict=True)):
            row = self._owed[debtor]
            if row[creditor] == blocks:
                del row[creditor]
                first = min(first, i)
            else:
                row[creditor] -= blocks
        return first
