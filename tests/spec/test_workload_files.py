"""Any spelling of a workload, transforms, and exact round trips."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.spec import io
from plimsoll.spec.errors import PlimsollError, SpecError
from plimsoll.spec.transforms import (
    limit_lengths,
    scale_rate,
    slice_time,
    subsample,
    take,
    with_rate,
)
from plimsoll.spec.workload import Workload
from plimsoll.spec.workload_files import bundled_recipe, load_workload, save_workload


def same(a: Workload, b: Workload) -> None:
    for name in Workload.__dataclass_fields__:
        left, right = getattr(a, name), getattr(b, name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype and np.array_equal(left, right), name
        else:
            assert left == right, name


def full() -> Workload:
    """A workload that uses every column."""
    return Workload(
        name="full",
        arrival_s=np.array([0.0, 0.1, 1 / 3]),
        prompt_tokens=np.array([600, 1100, 40]),
        output_tokens=np.array([5, 6, 7]),
        max_tokens=np.array([9, 9, 9]),
        class_index=np.array([0, 1, 0]),
        classes=("a", "ü"),
        session_id=np.array([0, 0, 1]),
        think_s=np.array([0.0, 2.5, 0.0]),
        priority=np.array([0, -1, 2]),
        cancel_after_s=np.array([np.inf, 0.25, np.inf]),
        prefix_keys=np.array([3, 4, 3, 4, 2**62]),
        prefix_start=np.array([0, 2, 5, 5]),
        prefix_block_tokens=512,
        sessions_wait=True,
        source="made up",
        notes=("one", "two"),
    )


@pytest.mark.parametrize("suffix", ["npz", "jsonl"])
def test_saved_workloads_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    made = [
        full(),
        load_workload("agent", num_requests=200),
        load_workload("4k/500", num_in_flight=8),
    ]
    for i, workload in enumerate(made):
        path = tmp_path / "new" / f"{i}.{suffix}"
        save_workload(workload, path)
        same(load_workload(str(path)), workload)
    assert len(list((tmp_path / "new").iterdir())) == 3, "no temporary file stays"


def test_saving_where_it_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="cannot be written"):
        save_workload(full(), tmp_path / "file" / "w.npz")
    with pytest.raises(SpecError, match="npz or .jsonl"):
        save_workload(full(), tmp_path / "w.csv")


def test_damaged_saved_files(tmp_path: Path) -> None:
    lines = tmp_path / "w.jsonl"
    save_workload(full(), lines)
    whole = lines.read_text()
    for cut, message in [
        ("\n".join(whole.split("\n")[:3]), "its header says"),
        (whole[:-20], "cut off"),
        (whole.replace('"prompt_tokens":600', '"prompt_tokens":"6"'), "line 2: prompt_tokens"),
        (whole.replace('"prompt_tokens":600', '"prompt_tokens":-6'), "row 0"),
        (whole.replace('"plimsoll_workload": 1', '"plimsoll_workload": 9'), "newer version"),
        (whole.replace('"class_index":1', '"class_index":7'), "class_index"),
    ]:
        lines.write_text(cut)
        with pytest.raises(SpecError, match=message):
            load_workload(str(lines))
    packed = tmp_path / "w.npz"
    save_workload(full(), packed)
    data = packed.read_bytes()
    for broken in (data[:100], b"PK\x03\x04", b"", data[:-30], b"no zip at all"):
        packed.write_bytes(broken)
        with pytest.raises(SpecError):
            load_workload(str(packed))
    np.savez(packed, arrival_s=np.zeros(3))
    with pytest.raises(SpecError, match="not a saved workload"):
        load_workload(str(packed))


@settings(max_examples=150, deadline=None)
@given(
    at=st.integers(0, 4000),
    insert=st.binary(max_size=6),
    drop=st.integers(0, 40),
    suffix=st.sampled_from(["npz", "jsonl"]),
)
def test_any_damage_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, insert: bytes, drop: int, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    save_workload(full(), path)
    data = path.read_bytes()
    at %= len(data)
    path.write_bytes(data[:at] + insert + data[at + drop :])
    try:
        workload = load_workload(str(path))
    except PlimsollError:
        return
    assert len(workload) > 0


def test_spoken_lengths() -> None:
    workload = load_workload("4k/500", rate_per_s=8.0, num_requests=2_000)
    assert set(workload.prompt_tokens) == {4_000} and set(workload.output_tokens) == {500}
    assert workload.rate_per_s == pytest.approx(8.0, rel=0.1)
    mild = load_workload("1000/100~0.8", num_in_flight=16)
    assert mild.num_in_flight == 16
    assert mild.prompt_tokens.min() >= 800 and mild.prompt_tokens.max() <= 1_000
    assert mild.prompt_tokens.mean() == pytest.approx(900, rel=0.02)
    assert any("assumed" in note for note in load_workload("10/10").notes)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("chta", {}, "Did you mean chat"),
        ("summarise", {}, "Did you mean summarize"),
        ("nowhere.csv", {}, "no such file"),
        ("a/b.jsonl", {}, "no such file"),
        ("0/5", {}, "at least 1"),
        ("5/5~2", {}, "after ~"),
        ("5/5~1.2.3", {}, "after ~"),
        ("chat", {"start_s": 5.0}, "are for traces"),
        ("chat", {"max_requests": 5}, "are for traces"),
        ("chat", {"rate_per_s": -1.0}, "above zero"),
        ("batch", {"rate_per_s": 1.0}, "no rate"),
        ("chat\0", {}, "neither"),
    ],
)
def test_what_cannot_be_loaded(text: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_workload(text, **options)  # type: ignore[arg-type]


def test_options_on_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = "".join(f"{i * 0.5},{10 + i},5\n" for i in range(101))
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    name = str(path)
    assert load_workload(name).rate_per_s == pytest.approx(2.0)
    assert load_workload(name, rate_per_s=8.0).duration_s == pytest.approx(50 / 4)
    part = load_workload(name, start_s=10.0, end_s=20.0)
    assert part.prompt_tokens.tolist() == list(range(30, 50)) and part.arrival_s[0] == 0
    assert len(load_workload(name, num_requests=7, rate_per_s=9.0)) == 7
    assert len(load_workload(name, duration_s=5.0)) == 10
    assert load_workload(name, num_in_flight=3).num_in_flight == 3
    for options, message in [
        ({"num_requests": 102}, "holds 101 requests"),
        ({"duration_s": 60.0}, "spans 50 s"),
        ({"num_requests": 5, "duration_s": 5.0}, "not both"),
        ({"num_in_flight": 5, "rate_per_s": 5.0}, "closed loop"),
        ({"num_in_flight": -5}, "zero or more"),
    ]:
        with pytest.raises(SpecError, match=message):
            load_workload(name, **options)  # type: ignore[arg-type]


def test_recipes_are_files_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    io.write(bundled_recipe("code"), path)
    same(load_workload(str(path), seed=3), load_workload("code", seed=3))
    path.write_text(path.read_text().replace("format_version: 1", "format_version: 2"))
    with pytest.raises(SpecError, match="newer"):
        load_workload(str(path))


def test_scaling_keeps_the_shape_and_sampling_does_not() -> None:
    base = load_workload("code")
    gaps = np.diff(base.arrival_s)
    fast = scale_rate(base, 4.0)
    assert fast.rate_per_s == pytest.approx(4 * base.rate_per_s)
    assert np.allclose(np.diff(fast.arrival_s) * 4, gaps, atol=1e-9)
    assert with_rate(base, 10.0).rate_per_s == pytest.approx(10.0)
    half = subsample(base, 0.25, seed=1)
    thinned = np.diff(half.arrival_s)
    assert thinned.std() / thinned.mean() < 0.8 * gaps.std() / gaps.mean()
    assert any("thinned" in note for note in half.notes)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SpecError):
            scale_rate(base, bad)
        with pytest.raises(SpecError):
            with_rate(base, bad)
        with pytest.raises(SpecError):
            subsample(base, bad)
    with pytest.raises(SpecError, match="at once"):
        with_rate(load_workload("batch", num_requests=5), 1.0)
    with pytest.raises(SpecError, match="closed loop"):
        scale_rate(load_workload("chat", num_in_flight=4), 2.0)


def test_parts_keep_prefix_keys_with_their_rows() -> None:
    base = load_workload("long-chat", num_requests=300)
    part = slice_time(base, 20.0, 60.0)
    first = int(np.searchsorted(base.arrival_s, 20.0))
    for i in (0, 5, len(part) - 1):
        own = part.prefix_keys[part.prefix_start[i] : part.prefix_start[i + 1]]
        j = first + i
        assert np.array_equal(
            own, base.prefix_keys[base.prefix_start[j] : base.prefix_start[j + 1]]
        )
    assert len(take(base, 10)) == 10
    with pytest.raises(SpecError, match="no request between"):
        slice_time(base, 1e6)


def test_length_limits() -> None:
    base = full()
    with pytest.raises(SpecError, match="2 of 3 requests.*1,100 \\+ 6"):
        limit_lengths(base, 300)
    assert limit_lengths(base, 2_000) is base
    dropped = limit_lengths(base, 300, how="drop")
    assert dropped.prompt_tokens.tolist() == [40]
    clipped = limit_lengths(base, 602, how="clip")
    assert clipped.prompt_tokens.tolist() == [600, 601, 40]
    assert clipped.output_tokens.tolist() == [2, 1, 7]
    assert np.diff(clipped.prefix_start).tolist() == [2, 2, 0]
    assert clipped.prefix_keys.tolist() == [3, 4, 3, 4]
    with pytest.raises(SpecError, match="leaves none"):
        limit_lengths(base, 3, how="drop")
    with pytest.raises(SpecError):
        limit_lengths(base, 1, how="clip")


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=20))
def test_any_text_is_loaded_or_refused(text: str) -> None:
    try:
        workload = load_workload(text, num_requests=3)
    except PlimsollError:
        return
    assert len(workload) > 0


@settings(max_examples=200, deadline=None)
@given(
    data=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from(["kind", "arrivals", "lengths", "name", "num_requests", "prompt"]),
                x,
                max_size=5,
            )
        ),
        max_leaves=10,
    )
)
def test_any_recipe_file_is_loaded_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(json.dumps(data))
    try:
        workload = load_workload(str(path), num_requests=3)
    except PlimsollError:
        return
    assert len(workload) > 0


def test_lengths_without_times_take_a_rate(tmp_path: Path) -> None:
    """A file of lengths alone gets Poisson arrivals at the rate asked for, and says so."""
    path = tmp_path / "lengths.csv"
    rows = "".join(f"{100 + i},{10 + i % 7}\n" for i in range(4000))
    path.write_text("prompt_tokens,output_tokens\n" + rows)
    together = load_workload(str(path))
    assert together.rate_per_s == 0
    spread = load_workload(str(path), rate_per_s=5.0, seed=3)
    gaps = np.diff(spread.arrival_s)
    assert gaps.mean() == pytest.approx(0.2, rel=0.06)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.08)
    assert (spread.prompt_tokens == together.prompt_tokens).all()
    assert any("Poisson" in note for note in spread.notes)
    again = load_workload(str(path), rate_per_s=5.0, seed=3)
    assert (again.arrival_s == spread.arrival_s).all()
    with pytest.raises(SpecError, match="above zero"):
        load_workload(str(path), rate_per_s=0.0)
