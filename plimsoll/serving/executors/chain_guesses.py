"""Guessing ahead: a surrogate of a chain's last block lets the next token start before it is known.

While the last block of a chain runs on one device, a surrogate (the block pruned to few layers)
runs on that of the first block and names a token; the first block starts on that token at once.
When the true block names the same token the work stands, for the first block's input is the token
and nothing else; otherwise it is dropped and done again. So what is delivered never depends on a
surrogate, which a check by the cosine of hidden states would not guarantee. Whether to guess is
``ChainPolicy.guess`` on what was seen. Left out: guesses about blocks within a chain.
Source: arXiv 2404.18322 (surrogates); checking tokens instead of hidden states is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from plimsoll.serving.executors.chain_requests import ChainRequest, Item, Prices
from plimsoll.serving.routers.chains import ChainPolicy, Guesses

__all__ = ["Ahead", "GuessBook", "Guessing", "surrogate_name"]


def surrogate_name(block: str) -> str:
    """The name under which the surrogate of a block is placed."""
    return f"guess:{block}"


@dataclass(slots=True)
class Ahead:
    """Work under way on a token that is not known yet: the surrogate's, then the first block's."""

    surrogate: Item
    guessed: bool = False
    first: Item | None = None
    done: bool = False


@dataclass(slots=True)
class GuessBook:
    """What was guessed for one chain, and the seconds at stake; ``recent`` guesses are kept."""

    saved_s: float
    wasted_s: float
    recent: int = 64
    asked: int = 0
    outcomes: list[bool] = field(default_factory=list)

    @property
    def seen(self) -> Guesses:
        """As the policy reads it."""
        right = sum(self.outcomes)
        return Guesses(len(self.outcomes), right, self.saved_s, self.wasted_s)

    def wanted(self, policy: ChainPolicy) -> bool:
        """Ask the policy at one more chance."""
        self.asked += 1
        return policy.guess(self.seen, self.asked)

    def told(self, right: bool) -> None:
        """The true token is known."""
        self.outcomes.append(right)
        del self.outcomes[: -self.recent]


class Guessing:
    """Guesses of all chains. ``right`` says whether the latest guess about a request came true."""

    def __init__(self, policy: ChainPolicy, prices: Prices) -> None:
        self.policy = policy
        self.right: Callable[[ChainRequest], bool] = lambda request: False
        self.books: dict[tuple[str, ...], GuessBook] = {}
        self._prices = prices
        self._ahead: dict[int, Ahead] = {}
        self._held: dict[int, int] = {}

    @property
    def made(self) -> int:
        """Guesses that were checked and are still kept."""
        return sum(len(book.outcomes) for book in self.books.values())

    def begin(self, request: ChainRequest, source: int) -> Item | None:
        """The surrogate's item, as the last block is sent out; None for no guess.

        ``request`` is at its last position; the first block's device is ``request.where[0]``.
        """
        if request.generated + 1 >= request.max_tokens or request.id in self._ahead:
            return None
        chain = tuple(request.blocks)
        if chain not in self.books:
            self.books[chain] = self._book(chain, source, request.where[0])
        if not self.books[chain].wanted(self.policy):
            return None
        start = self._held.get(request.id, 0)
        item = Item(
            request,
            request.epoch,
            request.position,
            start,
            request.tokens - start,
            ahead=surrogate_name(chain[-1]),
            place=request.where[0],
        )
        self._ahead[request.id] = Ahead(item)
        return item

    def _book(self, chain: tuple[str, ...], source: int, first: int) -> GuessBook:
        run_s, hidden_s = self._prices.run_s, self._prices.hidden_s
        cost_s, early_s = run_s(surrogate_name(chain[-1]), 0, 1), run_s(chain[0], 0, 1)
        true_s = run_s(chain[-1], 0, 1) + hidden_s(source, first, 1)
        saved_s = max(0.0, min(early_s, true_s - cost_s))
        return GuessBook(saved_s, early_s + cost_s)

    def ended(self, item: Item) -> Item | None:
        """A batch with work ahead ended; the first block's item where the surrogate's did."""
        ahead = self._ahead.get(item.request.id)
        if ahead is None:
            return None
        if item is ahead.surrogate:
            self._held[item.request.id] = item.start + item.num
            ahead.guessed = True
            request = item.request
            ahead.first = Item(
                request, request.epoch, 0, request.tokens, 1,
                ahead=request.blocks[0], place=item.place,
            )  # fmt: skip
            return ahead.first
        ahead.done = item is ahead.first
        return None

    def check(self, request: ChainRequest) -> Ahead | None:
        """The true token is there: the work ahead that stands, None if there is none.

        Work that does not stand is dropped.
        """
        ahead = self._ahead.pop(request.id, None)
        if ahead is None:
            return None
        right = ahead.guessed and self.right(request)
        if ahead.guessed:
            self.books[tuple(request.blocks)].told(right)
        if right:
            return ahead
        ahead.surrogate.dropped = True
        if ahead.first is not None:
            ahead.first.dropped = True
        return None

    def forget(self, request: ChainRequest) -> None:
        """A request ended, or what is held of it is lost."""
        ahead = self._ahead.pop(request.id, None)
        self._held.pop(request.id, None)
        for item in (ahead.surrogate, ahead.first) if ahead else ():
            if item is not None:
                item.dropped = True
