"""Sizes that decode graphs are captured for cover every batch and table without much waste."""

from hypothesis import given
from hypothesis import strategies as st

from plimsoll.serving.executors.torch.decode_graphs import rounded_batch, rounded_pages


@given(rows=st.integers(1, 1000))
def test_batches(rows: int) -> None:
    size = rounded_batch(rows)
    assert rows <= size < 2 * rows + 1
    assert size - rows < 16
    assert rounded_batch(size) == size


@given(pages=st.integers(1, 10_000))
def test_pages(pages: int) -> None:
    size = rounded_pages(pages)
    assert size >= max(pages, 8)
    assert pages <= 8 or size < 1.5 * pages + 1
    assert rounded_pages(size) == size
