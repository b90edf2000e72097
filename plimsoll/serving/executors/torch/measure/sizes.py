"""What sizes are timed, and for how long: the whole measurement and a quick one.

Source: chosen so that models of 128 to 16,384 wide lie inside or near the table, and so that the
whole takes under three minutes on two CPU cores.
"""

from dataclasses import dataclass, replace

__all__ = ["FULL", "QUICK", "THOROUGH", "ModelSizes", "Sizes", "StepSizes"]

ModelSizes = tuple[int, int, tuple[int, int, int], int, int]
"""Hidden width, intermediate width, heads, layers, vocabulary."""
StepSizes = tuple[tuple[tuple[int, int], ...], tuple[int, ...]]
"""Prompt chunks, and contexts of decodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Axes of the tables, points of the fits, seconds for each.

    ``heads`` are (query heads, KV heads, head width); ``chunks`` (new tokens, cached before);
    ``layers`` (hidden width, intermediate width, heads) whose light operators are timed.
    ``nodes`` are the new tokens between which the cost of a prompt's pair is interpolated.
    On the probe models a layer's extra time in whole passes is found; on the check models, all
    others, steps are predicted and timed.
    ``checks`` are (outputs, inputs, tokens) outside the linear table.
    """

    outputs: tuple[int, ...]
    inputs: tuple[int, ...]
    tokens: tuple[int, ...]
    checks: tuple[tuple[int, int, int], ...]
    heads: tuple[tuple[int, int, int], ...]
    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    chunks: tuple[tuple[int, int], ...]
    nodes: tuple[int, ...]
    layers: tuple[tuple[int, int, tuple[int, int, int]], ...]
    light_tokens: tuple[int, ...]
    vocabularies: tuple[int, ...]
    probe_models: tuple[ModelSizes, ...]
    probe_steps: tuple[StepSizes, ...]
    check_models: tuple[ModelSizes, ...]
    check_steps: tuple[StepSizes, ...]
    cell_s: float
    rounds: int
    copied_bytes: int
    file_bytes: int
    message_bytes: tuple[int, ...]
    cache_multiples: tuple[float, ...]


FULL = Sizes(
    outputs=(64, 256, 1024, 4096, 16384),
    inputs=(64, 256, 1024, 4096),
    tokens=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512, 1024, 2048),
    checks=(
        (384, 512, 5),
        (512, 1536, 1),
        (768, 2048, 20),
        (1408, 512, 40),
        (2048, 2048, 96),
        (3072, 768, 200),
        (512, 512, 768),
        (2816, 1024, 2),
    ),
    heads=((4, 4, 32), (6, 2, 64), (12, 4, 64), (16, 8, 128)),
    batches=(1, 2, 4, 8, 16, 32),
    contexts=(32, 128, 512, 1500),
    chunks=((32, 0), (64, 0), (128, 0), (256, 0), (512, 0), (1024, 0), (32, 512), (64, 128),
            (128, 1024), (256, 256), (512, 512), (64, 1500), (512, 1500), (1024, 512)),
    nodes=(64, 256, 512, 1024),
    layers=(
        (128, 512, (4, 4, 32)),
        (384, 1024, (6, 2, 64)),
        (768, 2048, (12, 4, 64)),
        (1536, 4096, (16, 8, 96)),
    ),
    light_tokens=(1, 4, 16, 32, 64, 128, 512, 1024),
    vocabularies=(1024, 8192, 32768, 131072),
    probe_models=(
        (192, 512, (3, 3, 64), 6, 4096),
        (384, 1024, (6, 2, 64), 6, 8192),
        (768, 2048, (12, 4, 64), 4, 16384),
    ),
    probe_steps=(
        ((), (100,)), ((), (400,) * 4), ((), (64,) * 8), ((), (250,) * 16), (((48, 0),), ()),
        (((200, 0),), ()), (((400, 0),), ()), (((96, 300),), ()), (((100, 0),), (250,) * 6),
        (((200, 100),), (350,) * 12),
    ),
    check_models=((256, 704, (4, 2, 64), 4, 8192), (512, 1408, (8, 4, 64), 8, 16384)),
    check_steps=(
        (((64, 0),), ()), (((256, 0),), ()), (((512, 0),), ()), (((128, 512),), ()),
        ((), (100,)), ((), (300,) * 3), ((), (32,) * 8), ((), (100, 300, 500, 700) * 4),
        ((), (400,) * 32), (((128, 0),), (200,) * 4), (((256, 256),), (300, 500) * 4),
    ),
    cell_s=0.012,
    rounds=3,
    copied_bytes=256 * 2**20,
    file_bytes=256 * 2**20,
    message_bytes=(8, 4096, 65536, 2**20, 2**24),
    cache_multiples=(0.3, 0.55, 0.8, 4.0),
)  # fmt: skip

QUICK = Sizes(
    outputs=(32, 128),
    inputs=(32, 128),
    tokens=(1, 4, 16, 64),
    checks=((64, 64, 8),),
    heads=((2, 1, 16), (4, 4, 16)),
    batches=(1, 2, 3, 4),
    contexts=(16, 64),
    chunks=((8, 0), (16, 0), (32, 0), (8, 16), (16, 32), (32, 32)),
    nodes=(8, 32),
    layers=((32, 64, (2, 1, 16)), (64, 160, (4, 4, 16)), (96, 128, (4, 2, 32))),
    light_tokens=(1, 8, 32),
    vocabularies=(256, 1024),
    probe_models=((48, 128, (3, 1, 16), 2, 512),),
    probe_steps=(((), (32,)), ((), (24, 40)), (((8, 0),), ()), (((8, 8),), (40,))),
    check_models=((64, 160, (4, 2, 16), 2, 512),),
    check_steps=((((16, 0),), ()), ((), (32, 48)), (((8, 16),), (40,))),
    cell_s=0.002,
    rounds=1,
    copied_bytes=2**20,
    file_bytes=2**20,
    message_bytes=(),
    cache_multiples=(0.01, 0.05),
)

THOROUGH = replace(
    FULL,
    check_models=(
        (256, 704, (4, 2, 64), 4, 8192),
        (512, 1408, (8, 4, 64), 8, 16384),
        (1024, 2816, (16, 8, 64), 12, 32768),
    ),
    check_steps=(
        (((64, 0),), ()), (((128, 0),), ()), (((256, 0),), ()), (((512, 0),), ()),
        (((1024, 0),), ()), (((128, 512),), ()), (((256, 1024),), ()), (((100, 0), (200, 64)), ()),
        ((), (100,)), ((), (1500,)), ((), (64, 128)), ((), (300,) * 3), ((), (200,) * 4),
        ((), (32,) * 8), ((), (500, 600, 700, 800) * 2), ((), (100, 300, 500, 700) * 4),
        ((), (1000,) * 16), ((), (64,) * 32), ((), (400,) * 32), ((), (1200,) * 32),
        (((128, 0),), (200,) * 4), (((256, 256),), (300, 500) * 4), (((64, 0),), (800,) * 16),
        (((480, 0),), (250,) * 32),
    ),
)  # fmt: skip
"""The same measurement, checked for minutes on larger models and more steps."""
