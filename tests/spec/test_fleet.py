"""Fleets as spoken: the grammar, exact names, positions in errors, and arbitrary input."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.spec import io
from plimsoll.spec.errors import PlimsollError, SpecError
from plimsoll.spec.fleet import bundled_devices, load_device, parse_fleet
from plimsoll.spec.hardware import Fleet


def shape(text: str) -> list[tuple[int, int, str]]:
    """(nodes, devices a node, device) of every part."""
    return [(p.num_nodes, p.node.num_devices, p.device.name) for p in parse_fleet(text).parts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("H100", [(1, 1, "H100-SXM")]),
        ("8xH100-SXM", [(1, 8, "H100-SXM")]),
        ("16xL40S", [(2, 8, "L40S")]),
        ("12xH100-SXM", [(1, 8, "H100-SXM"), (1, 4, "H100-SXM")]),
        ("72xGB200", [(1, 72, "GB200")]),
        ("144xGB300", [(2, 72, "GB300")]),
        ("2x(8xH200-SXM)+16xL40S", [(2, 8, "H200-SXM"), (2, 8, "L40S")]),
        ("4x(4xA100-80)", [(4, 4, "A100-SXM-80")]),
        ("3x(H100)", [(3, 1, "H100-SXM")]),
        (" 2 x ( 8 x H200 ) + 1xA10 ", [(2, 8, "H200-SXM"), (1, 1, "A10")]),
        ("8×h100_sxm", [(1, 8, "H100-SXM")]),
        ("1_000xTPU v5e", [(3, 256, "TPU-v5e"), (1, 232, "TPU-v5e")]),
    ],
)
def test_grammar(text: str, expected: list[tuple[int, int, str]]) -> None:
    assert shape(text) == expected


@pytest.mark.parametrize(
    ("spoken", "name"),
    [
        ("H100", "H100-SXM"),
        ("h100-sxm", "H100-SXM"),
        ("H100_SXM", "H100-SXM"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("H100 PCIe", "H100-PCIe"),
        ("A100", "A100-SXM-80"),
        ("A100-80G", "A100-SXM-80"),
        ("a100_40gb", "A100-SXM-40"),
        ("A40", "A40"),
        ("a10", "A10"),
        ("V100", "V100-SXM"),
        ("rtx4090", "RTX-4090"),
        ("RTX PRO 6000", "RTX-PRO-6000"),
        ("mi300x", "MI300X"),
        ("Ascend 910B", "Ascend-910B"),
        ("trillium", "TPU-v6e"),
        ("cpu", "EPYC-9654"),
    ],
)
def test_names_ignore_case_and_punctuation(spoken: str, name: str) -> None:
    assert load_device(spoken).name == name


def test_no_name_means_two_devices() -> None:
    owners: dict[str, str] = {}
    for device in bundled_devices():
        for spoken in {device.name, *device.aliases}:
            key = "".join(c for c in spoken.lower() if c.isalnum())
            assert owners.setdefault(key, device.name) == device.name


@pytest.mark.parametrize("near_miss", ["A41", "A4", "H10", "H1000", "L40", "A40S", "B20", "4080"])
def test_near_miss_is_an_error_with_neighbors(near_miss: str) -> None:
    with pytest.raises(SpecError, match="unknown device") as caught:
        load_device(near_miss)
    assert near_miss in str(caught.value)


def test_neighbors_are_named() -> None:
    with pytest.raises(SpecError, match=r"Did you mean .*H100"):
        load_device("H100-SXN")


@pytest.mark.parametrize(
    ("text", "character"),
    [
        ("", None),
        ("8xH100+", 8),
        ("+8xH100", 1),
        ("0xH100", 1),
        ("8x", 3),
        ("2x(8xH100", 3),
        ("8xH100)", 7),
        ("2x(2x(8xH100))", 6),
        ("2x(8xH100)L4", 11),
        ("8x(H100+A40)", 4),
        ("4xH100+8xH300", 10),
        ("99999999999999999999xH100", 1),
        ("8x./nowhere.yaml", 3),
    ],
)
def test_errors_name_the_position(text: str, character: int | None) -> None:
    with pytest.raises(SpecError) as caught:
        parse_fleet(text)
    if character is not None:
        assert f"character {character}:" in str(caught.value)


def test_too_many_devices_in_all() -> None:
    with pytest.raises(SpecError, match="the limit is"):
        parse_fleet("9000000xH100+9000000xL4")


def test_a_fleet_counts_its_devices_and_round_trips() -> None:
    fleet = parse_fleet("2x(8xH200-SXM)+11xL40S")
    assert fleet.num_devices == 27
    assert io.from_data(Fleet, io.plain(fleet), where="fleet") == fleet


def test_a_path_inside_a_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mycard.yaml").write_text(
        "name: mycard\nmemory: 48GB\nbandwidth: 864GB/s\nbf16: 181TFLOP/s\nwatts: 300\n"
    )
    monkeypatch.chdir(tmp_path)
    assert shape("8x./mycard.yaml+2xL4") == [(1, 8, "mycard"), (1, 2, "L4")]
    assert shape("10xmycard.yaml") == [(1, 8, "mycard"), (1, 2, "mycard")]


PIECES = st.sampled_from(
    ["8", "x", "(", ")", "+", "H100", "A40", "./a.yaml", "~q/b.json", " ", "0", "\0", "é", "-1"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        fleet = parse_fleet(text)
    except PlimsollError as error:
        assert str(error)
    else:
        assert fleet.num_devices == sum(p.num_devices for p in fleet.parts) > 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 500),
            st.integers(0, 80),
            st.sampled_from([d.name for d in bundled_devices()]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_devices_are_conserved(parts: list[tuple[int, int, str]]) -> None:
    text = "+".join(f"{n}x({size}x{name})" if size else f"{n}x{name}" for n, size, name in parts)
    fleet = parse_fleet(text)
    assert fleet.num_devices == sum(n * max(size, 1) for n, size, _ in parts)
    for part in fleet.parts:
        assert part.device.name in {name for _, _, name in parts}
