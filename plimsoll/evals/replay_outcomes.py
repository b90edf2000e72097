"""What came of requests that were sent to a server: times as the client saw them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Outcomes"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """One row a request; seconds from the start, NaN for what never came.

    ``status``: 0 finished, 1 cancelled by its client, 2 failed; ``errors`` the sentences of the
    failed, by row. ``output_tokens`` as the server counts them.
    """

    due_s: Floats
    sent_s: Floats
    first_token_s: Floats
    finished_s: Floats
    output_tokens: Ints
    status: Ints
    errors: dict[int, str]

    @property
    def late_s(self) -> Floats:
        """How long after its time each request was sent."""
        return self.sent_s - self.due_s

    @property
    def ttft_s(self) -> Floats:
        """Sent to first token, as the client sees it."""
        return self.first_token_s - self.sent_s

    @property
    def tpot_s(self) -> Floats:
        """(end - first token) / (output tokens - 1) of finished requests."""
        tokens = np.where(
            (self.output_tokens > 1) & (self.status == 0), self.output_tokens - 1, np.nan
        )
        return (self.finished_s - self.first_token_s) / tokens
