"""When a token ends its request."""

import pytest

from plimsoll.serving.executors.torch.sampling.finish import ends
from plimsoll.serving.generation import SamplingParams


@pytest.mark.parametrize(
    ("settings", "token", "num_generated", "reason"),
    [
        ({}, 5, 1, None),
        ({}, 0, 1, "stop"),
        ({}, 0, 10, "stop"),
        ({}, 5, 10, "length"),
        ({"ignore_eos": True}, 0, 1, None),
        ({"ignore_eos": True}, 0, 10, "length"),
        ({"stop_token_ids": (5, 6)}, 6, 2, "stop"),
        ({"stop_token_ids": (5, 6), "ignore_eos": True}, 6, 2, "stop"),
        ({"stop_token_ids": (0,), "ignore_eos": True}, 0, 2, "stop"),
        ({"min_tokens": 3}, 0, 3, None),
        ({"min_tokens": 3}, 0, 4, "stop"),
        ({"min_tokens": 3, "stop_token_ids": (6,)}, 6, 3, None),
        ({"min_tokens": 10}, 0, 10, "length"),
    ],
)
def test_ends(settings: dict[str, object], token: int, num_generated: int, reason: str) -> None:
    params = SamplingParams(max_tokens=10, **settings)
    assert ends(params, token, num_generated, (0, 1)) == reason
