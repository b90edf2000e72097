"""Prefixes read once: the same attention, fewer bytes, groups that save most."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from plimsoll.models.context import KvShape
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.messages import Work
from plimsoll.serving.executors.torch.paged_context import PagedContext
from plimsoll.serving.executors.torch.shared_prefix import SharedPrefixContext, shared_runs
from plimsoll.serving.policies import ChunkedPrefillPolicy
from tests.serving.torch_executor.tiny_llama import make_folder, open_run, requests, serve_all, spec

BLOCK, HEADS, KV_HEADS, WIDTH = 16, 4, 2, 8


def store() -> KvStore:
    made = KvStore(
        {0: KvShape(num_heads=KV_HEADS, key_dim=WIDTH, value_dim=WIDTH)},
        num_blocks=80,
        block_tokens=BLOCK,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    generator = torch.Generator().manual_seed(0)
    for pages in (made.keys[0], made.values[0]):
        assert pages is not None
        pages.normal_(0, 1, generator=generator)
    return made


def mixed() -> list[Work]:
    """A prompt chunk, three decodes over six shared blocks, two over three, two alone."""
    tables = [
        (100, [1, 2, 3, 4, 5, 6, 7]),
        (130, [1, 2, 3, 4, 5, 6, 8, 9, 10]),
        (96, [1, 2, 3, 4, 5, 6, 11]),
        (50, [20, 21, 22, 23]),
        (60, [20, 21, 22, 24]),
        (33, [30, 31, 32]),
        (5, [40]),
    ]
    chunk = Work(0, list(range(20)), 16, [50, 51, 52], -1)
    return [
        chunk,
        *(Work(1 + i, [0], start, blocks, 0) for i, (start, blocks) in enumerate(tables)),
    ]


@pytest.mark.parametrize(
    "special",
    [
        {},
        {"window": 40},
        {"softcap": 5.0},
        {"sinks": torch.tensor([0.3, -0.2, 0.1, 0.5])},
    ],
    ids=["plain", "window", "softcap", "sinks"],
)
def test_the_same_attention(special: dict[str, object]) -> None:
    generator = torch.Generator().manual_seed(1)
    work = mixed()
    tokens = sum(len(w.tokens) for w in work)
    q = torch.randn(tokens, HEADS, WIDTH, generator=generator)
    k, v = (torch.randn(tokens, KV_HEADS, WIDTH, generator=generator) for _ in range(2))
    found, read = [], []
    for kind in (PagedContext, SharedPrefixContext):
        own = store()
        context = kind(own, work)
        for _ in range(2):  # as a second layer does
            out = context.attend(0, q, k, v, scale=WIDTH**-0.5, **special)  # type: ignore[arg-type]
        found.append(out)
        read.append(own.read_bytes)
    assert torch.allclose(*found, atol=1e-5)
    assert (read[1] < 0.8 * read[0]) == (not special), "only plain layers share"


def saved(groups: Sequence[tuple[int, list[int]]]) -> int:
    return sum((len(members) - 1) * depth for depth, members in groups)


def alike(column: tuple[int, ...]) -> bool:
    return len(set(column)) == 1


def partitions(items: list[int]) -> "itertools.chain[list[list[int]]]":
    def every(left: list[int]):
        if not left:
            yield []
            return
        first, rest = left[0], left[1:]
        for size in range(len(rest) + 1):
            for others in itertools.combinations(rest, size):
                remaining = [i for i in rest if i not in others]
                for tail in every(remaining):
                    yield [[first, *others], *tail]

    return itertools.chain(every(items))


def test_groups_save_as_much_as_any() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        num = int(rng.integers(2, 7))
        tables = [rng.integers(0, 2, int(rng.integers(2, 7))).tolist() for _ in range(num)]
        found = shared_runs(tables)
        for depth, members in found:
            assert depth >= 2
            assert len({tuple(tables[i][:depth]) for i in members}) == 1
        places = [i for _, members in found for i in members]
        assert len(places) == len(set(places))
        best = 0
        for split in partitions(list(range(num))):
            total = 0
            for part in split:
                rows = [tables[i] for i in part]
                depth = len(
                    list(itertools.takewhile(lambda c: len(set(c)) == 1, zip(*rows, strict=False)))
                )
                total += (len(part) - 1) * depth if depth >= 2 else 0
            best = max(best, total)
        assert saved(found) == best


def test_the_same_tokens(tmp_path: Path) -> None:
    """Many in flight over a prefix cache, against one after the other without."""
    folder = make_folder(tmp_path)
    slow = spec(ChunkedPrefillPolicy(token_budget=2048), 100, prefix_caching=False)
    expected = serve_all(open_run(folder, [slow]), requests(30, shared=64), one_by_one=True)
    quick = spec(ChunkedPrefillPolicy(token_budget=256), 3000)
    run = open_run(folder, [quick], shared_attention=True)
    assert serve_all(run, requests(30, shared=64)) == expected
