"""What one place knows of the KV blocks that instances have free and lend each other.

Instances report themselves in heartbeats; what the ledger says is as old as they are. It only
proposes: creditors by locality, then by free space. The grant is the creditor's own decision,
made on its own free blocks and never handed on, so nobody waits for anybody. Who owes blocks is
not proposed as a creditor: its free blocks are better spent on moving its own home, and chained
loans would read twice over the network.
Source: arXiv 2401.02669, first version (gManager, rManager).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from plimsoll.serving.kv.debts import DebtGraph
from plimsoll.spec.errors import SpecError

__all__ = ["Candidate", "Heartbeat", "Ledger", "LendingBooks", "Loan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What an instance says of itself. ``owes[creditor]`` blocks it has borrowed there."""

    instance: int
    sent_at_s: float
    free_blocks: int
    owes: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An instance that may lend: it said so ``age_s`` ago. ``near``: on the debtor's node."""

    instance: int
    free_blocks: int
    near: bool
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loan:
    """``blocks`` that ``creditor`` granted."""

    creditor: int
    blocks: int


class LendingBooks:
    """The creditor's side: what one instance has free, and what it has lent to whom.

    ``most_lent`` caps the blocks lent to all others together.
    """

    def __init__(self, *, free_blocks: int, most_lent: int) -> None:
        self.free_blocks = free_blocks
        self.most_lent = most_lent
        self.lent: dict[int, int] = {}

    def grant(self, debtor: int, blocks: int) -> bool:
        """Lend ``blocks``, all or none, at once and from what is free here."""
        if blocks > self.free_blocks or blocks > self.most_lent - sum(self.lent.values()):
            return False
        self.free_blocks -= blocks
        self.lent[debtor] = self.lent.get(debtor, 0) + blocks
        return True

    def take_back(self, debtor: int, blocks: int) -> None:
        """The debtor has no use for ``blocks`` of its loan any more.

        Raises:
            SpecError: it has not borrowed as many.
        """
        owed = self.lent.get(debtor, 0)
        if blocks > owed:
            raise SpecError(f"instance {debtor} gives back {blocks} blocks of {owed} borrowed")
        self.free_blocks += blocks
        self.lent[debtor] = owed - blocks
        if owed == blocks:
            del self.lent[debtor]


class Ledger:
    """See the module text. ``nodes[instance]`` is where it stands; instances without one are far
    from all. Reports older than ``oldest_s`` are not acted on."""

    def __init__(self, nodes: Mapping[int, int], *, oldest_s: float = float("inf")) -> None:
        self._nodes = dict(nodes)
        self._oldest_s = oldest_s
        self._heard: dict[int, Heartbeat] = {}

    def hear(self, heartbeat: Heartbeat) -> None:
        """Take in a report; one that was sent before the last known of its instance is late.

        Raises:
            SpecError: it speaks of negative blocks or of a debt to itself.
        """
        DebtGraph({heartbeat.instance: heartbeat.owes})
        if heartbeat.free_blocks < 0:
            raise SpecError(
                f"instance {heartbeat.instance} reports {heartbeat.free_blocks} free blocks"
            )
        known = self._heard.get(heartbeat.instance)
        if known is None or heartbeat.sent_at_s >= known.sent_at_s:
            self._heard[heartbeat.instance] = heartbeat

    def lose(self, instance: int) -> list[int]:
        """An instance is gone; the debtors that had blocks there, whose requests start over."""
        self._heard.pop(instance, None)
        return sorted(i for i, beat in self._heard.items() if beat.owes.get(instance))

    def debts(self) -> DebtGraph:
        """Debtor to creditor to blocks, by the latest reports."""
        return DebtGraph({i: beat.owes for i, beat in self._heard.items()})

    def candidates(self, debtor: int, *, now_s: float) -> list[Candidate]:
        """Who may lend to ``debtor``: same node first, then most free blocks, then lowest id."""
        here = self._nodes.get(debtor)
        found = [
            Candidate(
                instance=i,
                free_blocks=beat.free_blocks,
                near=here is not None and self._nodes.get(i) == here,
                age_s=now_s - beat.sent_at_s,
            )
            for i, beat in self._heard.items()
            if i != debtor and beat.free_blocks and not any(beat.owes.values())
        ]
        fresh = [c for c in found if c.age_s <= self._oldest_s]
        return sorted(fresh, key=lambda c: (not c.near, -c.free_blocks, c.instance))

    def borrow(
        self,
        debtor: int,
        blocks: int,
        ask: Callable[[int, int], bool],
        *,
        now_s: float,
        most_tries: int = 8,
    ) -> Loan | None:
        """Ask candidates in turn until one grants all ``blocks``; None after ``most_tries``.

        ``ask(creditor, blocks)`` carries the question there and the answer back. A creditor that
        says no has less than it reported and is taken for empty until its next heartbeat.
        """
        tries = [c for c in self.candidates(debtor, now_s=now_s) if c.free_blocks >= blocks]
        for candidate in tries[:most_tries]:
            if ask(candidate.instance, blocks):
                self.lent(debtor, candidate.instance, blocks)
                return Loan(creditor=candidate.instance, blocks=blocks)
            self.refused(candidate.instance)
        return None

    def lent(self, debtor: int, creditor: int, blocks: int) -> None:
        """A creditor granted, or was asked for, ``blocks``: so many fewer until it reports."""
        self._note_free(creditor, self._heard[creditor].free_blocks - blocks)
        self._note_debt(debtor, creditor, blocks)

    def refused(self, creditor: int) -> None:
        """A creditor said no: it is taken for empty until it reports."""
        if creditor in self._heard:
            self._note_free(creditor, 0)

    def _note_free(self, creditor: int, blocks: int) -> None:
        known = self._heard[creditor]
        self._heard[creditor] = Heartbeat(
            instance=creditor,
            sent_at_s=known.sent_at_s,
            free_blocks=max(0, blocks),
            owes=known.owes,
        )

    def _note_debt(self, debtor: int, creditor: int, blocks: int) -> None:
        known = self._heard.get(debtor)
        if known is None:
            return
        owes = {**known.owes, creditor: known.owes.get(creditor, 0) + blocks}
        self._heard[debtor] = Heartbeat(
            instance=debtor, sent_at_s=known.sent_at_s, free_blocks=known.free_blocks, owes=owes
        )
