"""Ctrl-C while the classes of a file are read is neither lost nor taken for a bad file."""

import os
import signal
from dataclasses import dataclass

import pytest

from plimsoll.spec import io


@dataclass(frozen=True)
class _Point:
    x: int


def test_an_interrupt_waits_for_the_class_and_is_then_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = []

    class Slow(io.TypeAdapter):  # type: ignore[type-arg]
        def __init__(self, cls: type) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            super().__init__(cls)
            built.append(cls)

    monkeypatch.setattr(io, "TypeAdapter", Slow)
    with pytest.raises(KeyboardInterrupt):
        io.from_data(_Point, {"x": 1}, where="point")
    assert built == [_Point]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    assert io.from_data(_Point, {"x": 1}, where="point") == _Point(1)
