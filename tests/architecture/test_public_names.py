"""Public names change on purpose: the list is written by ``scripts/pin_public_names.py``."""

from scripts.pin_public_names import PINNED, public_names


def test_public_names_are_the_pinned_ones() -> None:
    pinned = set(PINNED.read_text(encoding="utf-8").split("\n")) - {""}
    now = set(public_names())
    new, gone = sorted(now - pinned), sorted(pinned - now)
    assert not new and not gone, "if this is meant, run python scripts/pin_public_names.py"


def test_the_contracts_are_public() -> None:
    names = public_names()
    assert "plimsoll.spec.hardware: Device" in names
    assert "plimsoll.spec.fleet: parse_fleet" in names
