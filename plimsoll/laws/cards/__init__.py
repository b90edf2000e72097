"""Every law in one comparable place: what it says, of what, from where, and when not to use it."""

from plimsoll.laws.cards.contract import Constants, LawCard, Quantity
from plimsoll.laws.cards.data import DATA_CARDS
from plimsoll.laws.cards.loss import LOSS_CARDS
from plimsoll.laws.cards.testtime import TEST_TIME_CARDS
from plimsoll.laws.cards.training import TRAINING_CARDS
from plimsoll.spec.errors import SpecError, suggest

__all__ = ["CARDS", "Constants", "LawCard", "Quantity", "card_of"]

CARDS: dict[str, LawCard] = {
    card.name: card for card in (*LOSS_CARDS, *TRAINING_CARDS, *DATA_CARDS, *TEST_TIME_CARDS)
}
"""By name, in the order they are shown."""


def card_of(name: str) -> LawCard:
    """The card of a law, or of the form that a published law has.

    Raises:
        SpecError: there is none.
    """
    if name in CARDS:
        return CARDS[name]
    by_law = {law.name: card for card in CARDS.values() for law in card.published}
    if name in by_law:
        return by_law[name]
    known = dict.fromkeys([*CARDS, *by_law])
    raise SpecError(f"no law {name!r}; plimsoll laws list shows them.{suggest(name, known)}")
