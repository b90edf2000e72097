"""Hardware as people say it: ``8xH100-SXM``, ``2x(8xH200-SXM)+16xL40S``, ``8x./mycard.yaml``.

    fleet = part ("+" part)*
    part  = device | count "x" device | count "x" "(" count "x" device ")"

A count without parentheses is of devices and fills nodes of the device's usual size, the
last node with what remains; parentheses give the node size themselves. Device names ignore
case and punctuation and must match a bundled name or alias exactly: a near miss is an error
that names the neighbors, never another device.
"""

import functools
import re
from importlib import resources
from pathlib import Path

from plimsoll.spec.data_sheet import device_from_data_sheet, is_data_sheet
from plimsoll.spec.errors import SpecError, suggest
from plimsoll.spec.hardware import Device, Fleet, FleetPart, Node
from plimsoll.spec.io import read, read_data

__all__ = ["bundled_devices", "load_device", "parse_fleet"]

_MAX_DEVICES = 10_000_000
_FILE_SUFFIXES = (".yaml", ".yml", ".json")
_COUNT = re.compile(r"(\d[\d_]*)\s*[xX×*]\s*")


@functools.cache
def bundled_devices() -> tuple[Device, ...]:
    """Every device the package ships, by name."""
    folder = resources.files("plimsoll.library") / "devices"
    with resources.as_file(folder) as path:
        found = [read(Device, file) for file in sorted(path.glob("*.yaml"))]
    return tuple(sorted(found, key=lambda device: device.name))


def load_device(text: str) -> Device:
    """A bundled device by name or alias, or the device of a YAML or JSON file.

    A file holds a full ``Device`` or the short form of ``data_sheet``.

    Raises:
        SpecError: no such file, a bad file, or a name that is not bundled.
    """
    name = text.strip()
    if name.lower().endswith(_FILE_SUFFIXES) or "/" in name or "\\" in name:
        return _read_device(name)
    device = _names().get(_key(name))
    if device is None:
        raise SpecError(
            f"unknown device {name!r}.{suggest(name, _spoken_names())} "
            "See `plimsoll list hardware`, or give a YAML file of its data sheet (./mycard.yaml)"
        )
    return device


def parse_fleet(text: str) -> Fleet:
    """The hardware of ``text``; see the module for the grammar.

    Raises:
        SpecError: not of that form, a count of zero, an unknown device; the message gives
            the position in ``text``.
    """
    if not text.strip():
        raise SpecError("no hardware given; write for example 8xH100-SXM")
    parts: list[FleetPart] = []
    for start, piece in _split(text):
        parts.extend(_parse_part(text, start, piece))
    total = sum(part.num_devices for part in parts)
    if total > _MAX_DEVICES:
        raise SpecError(f"{text.strip()!r}: {total:,} devices; the limit is {_MAX_DEVICES:,}")
    return Fleet(parts=tuple(parts), text=text.strip())


def _read_device(name: str) -> Device:
    try:
        path = Path(name).expanduser()
        data = read_data(path)
    except (ValueError, RuntimeError):  # a null character; a home folder of nobody
        raise SpecError(f"{name!r} is not a path of a file") from None
    if is_data_sheet(data):
        return device_from_data_sheet(data, where=str(path))
    return read(Device, path)


@functools.cache
def _names() -> dict[str, Device]:
    return {_key(name): d for d in bundled_devices() for name in (d.name, *d.aliases)}


def _spoken_names() -> list[str]:
    return [name for d in bundled_devices() for name in (d.name, *d.aliases)]


def _key(name: str) -> str:
    """Letters and digits only, lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _split(text: str) -> list[tuple[int, str]]:
    """(position, piece) between the plus signs outside parentheses."""
    pieces, depth, start = [], 0, 0
    for i, char in enumerate(text):
        if char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
        if depth < 0 or depth > 1:
            raise _error(text, i, f"unexpected {char!r}")
        if char == "+" and depth == 0:
            pieces.append((start, text[start:i]))
            start = i + 1
    if depth:
        raise _error(text, text.rindex("("), "this parenthesis is not closed")
    pieces.append((start, text[start:]))
    return pieces


def _parse_part(text: str, start: int, piece: str) -> list[FleetPart]:
    start += len(piece) - len(piece.lstrip())
    piece = piece.strip()
    if not piece:
        raise _error(text, start, "a device is missing here")
    count, rest, at = _take_count(text, start, piece)
    if not rest.startswith("("):
        return _fill_nodes(_device_at(text, at, rest), count)
    if not rest.endswith(")"):
        raise _error(text, at + rest.rindex(")") + 1, "a plus sign is missing here")
    inner = rest[1:-1]
    at += 1 + len(inner) - len(inner.lstrip())
    if "+" in inner:
        raise _error(text, at, "a node holds one kind of device; write the kinds as separate parts")
    size, name, at = _take_count(text, at, inner.strip())
    return [
        FleetPart(node=Node(device=_device_at(text, at, name), num_devices=size), num_nodes=count)
    ]


def _fill_nodes(device: Device, count: int) -> list[FleetPart]:
    full, remainder = divmod(count, device.devices_per_node)
    parts = []
    if full:
        node = Node(device=device, num_devices=device.devices_per_node)
        parts.append(FleetPart(node=node, num_nodes=full))
    if remainder:
        parts.append(FleetPart(node=Node(device=device, num_devices=remainder)))
    return parts


def _take_count(text: str, start: int, piece: str) -> tuple[int, str, int]:
    """(count, what follows, its position); a count that is left out is one."""
    match = _COUNT.match(piece)
    if match is None:
        return 1, piece, start
    digits = match.group(1).replace("_", "")
    if len(digits) > 12 or not 0 < int(digits) <= _MAX_DEVICES:
        raise _error(text, start, f"the count must be 1 to {_MAX_DEVICES:,}")
    return int(digits), piece[match.end() :], start + match.end()


def _device_at(text: str, position: int, name: str) -> Device:
    if not name:
        raise _error(text, position, "a device is missing here")
    try:
        return load_device(name)
    except SpecError as error:
        raise SpecError(f"{_where(text, position)}: {error}") from None


def _where(text: str, position: int) -> str:
    shown = text if len(text) <= 120 else text[:117] + "..."
    return f"hardware {shown!r}, character {position + 1}"


def _error(text: str, position: int, problem: str) -> SpecError:
    return SpecError(
        f"{_where(text, position)}: {problem}; "
        "write for example 8xH100-SXM or 2x(8xH200-SXM)+16xL40S"
    )
