"""Reading one configuration: typed fields, several spellings, errors that name the path.

A field that is absent or null falls through to its other spellings and then to the default; a
required one is noted, so that a single error can name everything that is missing. A value of
the wrong kind or size is an error at once. Nothing is coerced: ``"32"`` is not a number.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from plimsoll.spec.errors import SpecError

__all__ = ["Fields"]

_MOST = 2**31


class Fields:
    """One level of a configuration file."""

    def __init__(self, data: Mapping[str, Any], *, where: str) -> None:
        self.data = data
        self.where = where
        self.missing: list[str] = []
        self.assumptions: list[str] = []

    def assume(self, text: str) -> None:
        """Note in words what the configuration leaves open and how it is read."""
        if text not in self.assumptions:
            self.assumptions.append(text)

    def has(self, *names: str) -> bool:
        """Whether any of the spellings is there and not null."""
        return any(self.data.get(name) is not None for name in names)

    def find(self, *names: str) -> tuple[str, Any]:
        """The first spelling that is there and not null, and its value; ("", None) if none."""
        for name in names:
            value = self.data.get(name)
            if value is not None:
                return name, value
        return "", None

    def fail(self, name: str, problem: str) -> SpecError:
        """The error for one bad field, ready to raise."""
        return SpecError(" ".join(f"{self.where}: {name}: {problem}".split()))

    def need(self, *names: str) -> None:
        """Note that one of ``names`` is required and absent."""
        self.missing.append(" or ".join(names[:3]))

    def check_missing(self) -> None:
        """Raise one error for all required fields that were absent."""
        if self.missing:
            names = ", ".join(dict.fromkeys(self.missing))
            raise SpecError(
                f"{self.where}: required fields are missing: {names}; "
                "is this a decoder model's config.json?"
            )

    def whole(self, name: str, value: Any, *, least: int, most: int) -> int:
        """``value`` checked as a whole number in [least, most]."""
        integral = isinstance(value, float) and math.isfinite(value) and value == int(value)
        if isinstance(value, bool) or not (isinstance(value, int) or integral):
            shown = repr(value)
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            raise self.fail(name, f"{shown} is not a whole number")
        if not least <= value <= most:
            sign = "-" if value < 0 else ""
            digits = f"{value:,}" if abs(value) < 10**15 else f"{sign}10**15 or more"
            raise self.fail(name, f"{digits} is out of range; expected {least:,} to {most:,}")
        return int(value)

    def optional(self, *names: str, default: int, least: int = 0, most: int = _MOST) -> int:
        """A whole number, or ``default`` where it is absent."""
        name, value = self.find(*names)
        return self.whole(name, value, least=least, most=most) if name else default

    def required(self, *names: str, least: int = 1, most: int = _MOST) -> int:
        """A whole number that must be there; noted as missing (and read as 1) where it is not."""
        name, value = self.find(*names)
        if not name:
            self.need(*names)
            return 1
        return self.whole(name, value, least=least, most=most)

    def flag(self, *names: str, default: bool = False) -> bool:
        """True or false."""
        name, value = self.find(*names)
        if not name:
            return default
        if not isinstance(value, bool):
            raise self.fail(name, f"{value!r} is not true or false")
        return value

    def text(self, *names: str, default: str = "") -> str:
        """A string."""
        name, value = self.find(*names)
        if not name:
            return default
        if not isinstance(value, str):
            raise self.fail(name, f"{type(value).__name__} found; expected a string")
        return value

    def number(self, name: str) -> float:
        """A finite number that is there."""
        value = self.data.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(name, f"{value!r} is not a number")
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
        if not math.isfinite(result):
            raise self.fail(name, "not a finite number")
        return result

    def names(self, *names: str, length: int = 0) -> tuple[str, ...]:
        """A list of strings, or () where it is absent; ``length`` entries unless 0."""
        name, value = self.find(*names)
        if not name:
            return ()
        items = self._items(name, value, length)
        for index, item in enumerate(items):
            if not isinstance(item, str):
                raise self.fail(f"{name}[{index}]", f"{item!r} is not a string")
        return tuple(items)

    def counts(
        self, *names: str, length: int = 0, least: int = 0, most: int = _MOST
    ) -> tuple[int, ...]:
        """A list of whole numbers, or () where it is absent; ``length`` entries unless 0."""
        name, value = self.find(*names)
        if not name:
            return ()
        items = self._items(name, value, length)
        return tuple(
            self.whole(f"{name}[{index}]", item, least=least, most=most)
            for index, item in enumerate(items)
        )

    def _items(self, name: str, value: Any, length: int) -> Sequence[Any]:
        if not isinstance(value, list):
            raise self.fail(name, f"{type(value).__name__} found; expected a list")
        if length and len(value) < length:
            raise self.fail(name, f"{len(value)} entries for {length} layers")
        return value[:length] if length else value

    def section(self, *names: str) -> "Fields | None":
        """A nested mapping as its own level, or None where it is absent."""
        name, value = self.find(*names)
        if not name:
            return None
        if not isinstance(value, dict):
            raise self.fail(name, f"{type(value).__name__} found; expected a mapping")
        return Fields(value, where=f"{self.where}: {name}")
