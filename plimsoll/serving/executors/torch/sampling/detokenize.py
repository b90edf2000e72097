"""Text as tokens come, and the strings that end it.

Each token decodes a short window: a token of context and what is not settled yet. A window ends
where its text ends in a whole character; up to three trailing replacement marks may be one
unfinished character and wait. Long runs of broken bytes are cut where both parts decode to the
same text as the whole. Text that may begin a stop string waits too. The stop string that is
complete first counts, the longer one of two that end together, so token borders do not matter.
Special tokens give no text. Left out: byte-fallback tokenizers, whose decoder rewrites earlier
text when later bytes are broken, agree with the full decode on valid UTF-8 only.
"""

from tokenizers import Tokenizer

__all__ = ["TextStream"]

_MARK = "\N{REPLACEMENT CHARACTER}"
_MAX_UNFINISHED = 3
_LONG_WINDOW = 12


class TextStream:
    """The text of one request, from its generated tokens.

    Stop strings that are complete within the first ``min_tokens`` tokens do not count.
    """

    __slots__ = ("_given", "_held", "_ids", "_min_tokens", "_num_tokens", "_stop", "_tokenizer")

    def __init__(
        self, tokenizer: Tokenizer, stop: tuple[str, ...] = (), *, min_tokens: int = 0
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(s for s in stop if s)
        self._min_tokens = min_tokens
        self._num_tokens = 0
        self._ids: list[int] = []
        self._given = 0
        self._held = ""

    def push(self, token: int) -> tuple[str, bool]:
        """Text that is settled now, and whether a stop string ended the output before more."""
        self._num_tokens += 1
        self._ids.append(token)
        return self._release(self._decode_settled())

    def finish(self) -> str:
        """The rest, at the end of the tokens; unfinished characters become replacement marks."""
        text, stopped = self._release(self._decode(self._ids)[self._given :])
        self._ids, self._given = [], 0
        held, self._held = self._held, ""
        return text if stopped else text + held

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _decode_settled(self) -> str:
        """Take from the window what later tokens cannot change."""
        text = self._decode(self._ids)
        num_marks = len(text) - len(text.rstrip(_MARK))
        new = text[self._given : len(text) - min(num_marks, _MAX_UNFINISHED)]
        if num_marks == 0:
            self._keep_from(len(self._ids) - 1)
        else:
            self._given += len(new)
            if len(self._ids) >= _LONG_WINDOW:
                self._cut(text)
        return new

    def _keep_from(self, place: int) -> None:
        """Leave only a token of context before a settled end."""
        if self._decode(self._ids[place:]):
            self._ids = self._ids[place:]
            self._given = len(self._decode(self._ids))

    def _cut(self, text: str) -> None:
        """Drop tokens before a border between characters, old enough to be one for good."""
        for place in range(len(self._ids) - 4, 0, -1):
            left = self._decode(self._ids[:place])
            if len(left) <= self._given and left + self._decode(self._ids[place:]) == text:
                self._ids = self._ids[place:]
                self._given -= len(left)
                return

    def _release(self, new: str) -> tuple[str, bool]:
        """Pass on what no stop string can claim any more."""
        text = self._held + new
        if not self._stop:
            return text, False
        if self._num_tokens > self._min_tokens:
            found = [(at + len(s), at) for s in self._stop if (at := text.find(s)) >= 0]
            if found:
                self._ids, self._given, self._held = [], 0, ""
                return text[: min(found)[1]], True
        keep = max(_overlap(text, s) for s in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop`` without completing it."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
