"""Log-probabilities of delivered tokens in the shapes of the two APIs.

Source: OpenAI's API reference.
"""

from collections.abc import Sequence

from plimsoll.serving.generation import Delta
from plimsoll.serving.http.replies import (
    ChatLogprobs,
    CompletionLogprobs,
    TokenLogprob,
    TopLogprob,
)
from plimsoll.serving.http.tokens import TextTools

__all__ = ["chat_logprobs", "completion_logprobs"]

LOWEST = -9999.0  # minus infinity cannot be written in JSON


def chat_logprobs(delta: Delta, text: TextTools) -> ChatLogprobs:
    """One entry a token of ``delta``."""
    content = []
    for token, drawn in zip(delta.tokens, delta.logprobs, strict=False):
        top = [_top(other, logprob, text) for other, logprob in drawn.top]
        one = _top(token, drawn.logprob, text)
        content.append(TokenLogprob(**one.model_dump(), top_logprobs=top))
    return ChatLogprobs(content=content)


def _top(token: int, logprob: float, text: TextTools) -> TopLogprob:
    written, raw = text.piece(token)
    return TopLogprob(token=written, logprob=max(LOWEST, logprob), bytes=list(raw))


def completion_logprobs(
    deltas: Sequence[Delta], text: TextTools, *, offset: int = 0
) -> CompletionLogprobs:
    """Parallel lists over the tokens of ``deltas``; ``offset`` characters went before."""
    lists = CompletionLogprobs(text_offset=[], token_logprobs=[], tokens=[], top_logprobs=[])
    for delta in deltas:
        for token, drawn in zip(delta.tokens, delta.logprobs, strict=False):
            written = text.piece(token)[0]
            lists.text_offset.append(offset)
            lists.tokens.append(written)
            lists.token_logprobs.append(max(LOWEST, drawn.logprob))
            top = {text.piece(other)[0]: max(LOWEST, lp) for other, lp in drawn.top}
            lists.top_logprobs.append(top)
            offset += len(written)
    return lists
