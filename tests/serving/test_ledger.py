"""Lending of KV blocks between instances, and debts that run in circles; arXiv 2401.02669."""

import random

import pytest

from plimsoll.catalog.lent_memory import Debts, is_acyclic, random_debts
from plimsoll.serving.kv.debts import DebtCircle, DebtGraph
from plimsoll.serving.kv.ledger import Heartbeat, Ledger, LendingBooks, Loan
from plimsoll.spec.errors import SpecError


def test_no_circle_is_left_and_nobody_is_worse_off() -> None:
    rng = random.Random(0)
    circles = 0
    for _ in range(2000):
        debts = random_debts(rng)
        locked = {a for a in debts if rng.random() < 0.1}
        graph = DebtGraph(debts)
        before, total = graph.net_balances(), graph.total
        settled = graph.reduce_cycles(locked=locked)
        after = graph.net_balances()
        assert {a: after.get(a, 0) for a in before} == before
        assert graph.total == total - sum(c.blocks * len(c.members) for c in settled)
        assert is_acyclic(graph, locked)
        assert not any(locked & set(circle.members) for circle in settled)
        assert all(
            blocks <= debts[a][b] and (a not in locked or blocks == debts[a][b])
            for a, row in graph.debts.items()
            for b, blocks in row.items()
        )
        circles += len(settled)
    assert circles > 2000


def test_a_circle_that_cannot_be_settled_is_left_as_it_was() -> None:
    rng = random.Random(1)
    for _ in range(500):
        debts = random_debts(rng)
        graph = DebtGraph(debts)
        refused: set[int] = set()

        def settle(circle: DebtCircle, refused: set[int] = refused) -> bool:
            agreed = rng.random() < 0.5
            if not agreed:
                refused.update(circle.members)
            return agreed

        before = graph.net_balances()
        graph.reduce_cycles(settle=settle)
        after = graph.net_balances()
        assert {a: after.get(a, 0) for a in before} == before
        assert is_acyclic(graph, refused)


def test_a_chain_is_no_circle() -> None:
    chain = {0: {1: 5}, 1: {2: 7}, 2: {3: 2}}
    graph = DebtGraph(chain)
    assert graph.reduce_cycles() == [] and graph.debts == chain
    closed = DebtGraph({**chain, 3: {0: 4}})
    assert closed.reduce_cycles() == [DebtCircle(members=(0, 1, 2, 3), blocks=2)]
    assert closed.debts == {0: {1: 3}, 1: {2: 5}, 3: {0: 2}}


@pytest.mark.parametrize("debts", [{0: {0: 1}}, {0: {1: -1}}])
def test_impossible_debts_are_refused(debts: Debts) -> None:
    with pytest.raises(SpecError):
        DebtGraph(debts)


def heard(*beats: Heartbeat, nodes: dict[int, int] | None = None) -> Ledger:
    ledger = Ledger(nodes or {})
    for beat in beats:
        ledger.hear(beat)
    return ledger


def beat(instance: int, free: int, at_s: float = 0.0, **owes: int) -> Heartbeat:
    owed = {int(name[1:]): blocks for name, blocks in owes.items()}
    return Heartbeat(instance=instance, sent_at_s=at_s, free_blocks=free, owes=owed)


def test_candidates_are_near_first_then_free() -> None:
    ledger = heard(beat(0, 0), beat(1, 5), beat(2, 9), beat(3, 99), nodes={0: 0, 1: 0, 2: 0, 3: 1})
    assert [c.instance for c in ledger.candidates(0, now_s=1.0)] == [2, 1, 3]


def test_who_owes_is_no_candidate() -> None:
    """Its loan would be chained to the one it has itself."""
    ledger = heard(beat(0, 0), beat(1, 50, _2=3), beat(2, 10))
    assert [c.instance for c in ledger.candidates(0, now_s=0.0)] == [2]


def test_a_loan_makes_a_debtor_that_is_not_asked_next() -> None:
    ledger = heard(beat(0, 4), beat(1, 50), beat(2, 0))
    assert ledger.borrow(0, 10, lambda *_: True, now_s=0.0) == Loan(creditor=1, blocks=10)
    assert ledger.debts().debts == {0: {1: 10}}
    assert [(c.instance, c.free_blocks) for c in ledger.candidates(2, now_s=0.0)] == [(1, 40)]


def test_a_stale_grant_is_refused_and_the_next_one_asked() -> None:
    """A creditor answers from its own books and asks nobody else."""
    books = {
        1: LendingBooks(free_blocks=2, most_lent=9),
        2: LendingBooks(free_blocks=8, most_lent=9),
    }
    ledger = heard(beat(0, 0), beat(1, 50), beat(2, 8))
    asked = []

    def ask(creditor: int, blocks: int) -> bool:
        asked.append(creditor)
        return books[creditor].grant(0, blocks)

    assert ledger.borrow(0, 5, ask, now_s=0.0) == Loan(creditor=2, blocks=5)
    assert asked == [1, 2]
    assert (books[1].free_blocks, books[1].lent, books[2].lent) == (2, {}, {0: 5})
    assert ledger.borrow(0, 5, ask, now_s=0.0) is None
    assert asked == [1, 2]


def test_tries_are_bounded() -> None:
    ledger = heard(*(beat(i, 5) for i in range(1, 20)))
    asked = []
    assert ledger.borrow(0, 1, lambda c, n: bool(asked.append(c)), now_s=0.0, most_tries=3) is None
    assert asked == [1, 2, 3]


def test_late_reports_and_old_ones() -> None:
    ledger = Ledger({}, oldest_s=10.0)
    ledger.hear(beat(1, 5, at_s=20.0))
    ledger.hear(beat(1, 99, at_s=19.0))
    assert [c.free_blocks for c in ledger.candidates(0, now_s=30.0)] == [5]
    assert ledger.candidates(0, now_s=30.5) == []


def test_a_lost_creditor_names_its_debtors() -> None:
    ledger = heard(beat(0, 0, _1=3), beat(1, 5), beat(2, 5), beat(3, 0, _1=1))
    assert ledger.lose(1) == [0, 3]
    assert [c.instance for c in ledger.candidates(0, now_s=0.0)] == [2]


def test_books_keep_the_cap_and_what_comes_back() -> None:
    books = LendingBooks(free_blocks=10, most_lent=6)
    assert books.grant(1, 4) and not books.grant(2, 3) and books.grant(2, 2)
    books.take_back(1, 4)
    assert (books.free_blocks, books.lent) == (8, {2: 2})
    with pytest.raises(SpecError, match="gives back 3 blocks of 2"):
        books.take_back(2, 3)


def test_reports_of_impossible_amounts_are_refused() -> None:
    with pytest.raises(SpecError):
        heard(beat(1, -1))
    with pytest.raises(SpecError):
        heard(beat(1, 1, _1=1))
