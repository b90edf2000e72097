"""Whether a token ends its request.

Tokens end a request here; strings end it in the text stream, and a completed grammar through
its constraint. Cancellation and errors are the engine's business.
"""

from collections.abc import Collection

from plimsoll.serving.generation import FinishReason, SamplingParams

__all__ = ["ends"]


def ends(
    params: SamplingParams, token: int, num_generated: int, eos_ids: Collection[int]
) -> FinishReason | None:
    """Why ``token`` is the last one, None if it is not; ``num_generated`` counts it.

    A stop or end-of-sequence token counts only after ``min_tokens`` others; where it falls
    together with ``max_tokens`` the reason is "stop".
    """
    if num_generated > params.min_tokens and (
        token in params.stop_token_ids or (token in eos_ids and not params.ignore_eos)
    ):
        return "stop"
    return "length" if num_generated >= params.max_tokens else None
