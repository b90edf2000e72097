"""Plain data to and from files: strict on the way in, atomic on the way out.

Specs and plans are frozen dataclasses; pydantic checks them once, here at the border, and
reports the path of the bad field. Unknown keys and duplicate YAML keys are refused. A file
is written under a temporary name and renamed, so a reader never sees half of one.
"""

import contextlib
import json
import os
import signal
import tempfile
import threading
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from plimsoll.spec.errors import SpecError

__all__ = [
    "PLAIN",
    "from_data",
    "plain",
    "read",
    "read_data",
    "read_text",
    "write",
    "write_text",
]

PLAIN = ConfigDict(extra="forbid", allow_inf_nan=False)
"""What every plain-data class sets as ``__pydantic_config__``."""

_MAX_SPEC_BYTES = 64 * 2**20
T = TypeVar("T")


class _StrictLoader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """YAML without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key!r}", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        result: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return result


def read_text(path: Path, *, max_bytes: int = _MAX_SPEC_BYTES) -> str:
    """The text of a file, or a SpecError that says why it could not be read."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise SpecError(f"{path}: is a folder; expected a file")
        if size > max_bytes:
            raise SpecError(
                f"{path}: {size:,} bytes is too large for this kind of file (limit {max_bytes:,})"
            )
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not a UTF-8 text file (byte {error.start})") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None


def read_data(path: Path) -> Any:
    """The parsed content of a YAML or JSON file."""
    text = read_text(path)
    try:
        if path.suffix == ".json":
            return json.loads(text)
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a safe loader
    except json.JSONDecodeError as error:
        raise SpecError(
            f"{path}: not valid JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from None
    except RecursionError:
        raise SpecError(f"{path}: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        line = " ".join(str(error).split())
        raise SpecError(f"{path}: not valid YAML: {line}") from None


_adapters: dict[type, TypeAdapter[Any]] = {}


def _adapter(cls: type) -> TypeAdapter[Any]:
    """Made once a class: building one costs milliseconds."""
    found = _adapters.get(cls)
    if found is None:
        with _interrupt_later():
            found = _adapters[cls] = TypeAdapter(cls)
    return found


@contextlib.contextmanager
def _interrupt_later() -> Iterator[None]:
    """Ctrl-C waits: met while a class is read, pydantic loses it or takes it for an error."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    met: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: met.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if met:
            signal.raise_signal(signal.SIGINT)


def from_data(cls: type[T], data: Any, *, where: str) -> T:
    """``data`` as ``cls``; every bad field is named with its path below ``where``."""
    try:
        result: T = _adapter(cls).validate_python(data)
    except ValidationError as error:
        problems = []
        for item in error.errors(include_url=False)[:5]:
            path = ".".join(str(p) for p in item["loc"])
            found = item.get("input")
            shown = "" if isinstance(found, dict | list) else f" (found {_short(found)})"
            problems.append(f"{path or 'top level'}: {item['msg']}{shown}")
        raise SpecError(f"{where}: {'; '.join(problems)}") from None
    return result


def _short(found: object) -> str:
    """What was found, cut to a line: a whole file may stand where a mapping should."""
    text = repr(found)
    return text if len(text) <= 120 else f"{text[:117]}..."


def plain(obj: Any) -> Any:
    """A dataclass as JSON-ready dicts, lists, strings and numbers; ``from_data`` inverts it."""
    return _adapter(type(obj)).dump_python(obj, mode="json")


def read(cls: type[T], path: Path) -> T:
    """A plain-data file (YAML or JSON) as ``cls``."""
    data = read_data(path)
    version = data.get("format_version") if isinstance(data, dict) else None
    supported = getattr(cls, "FORMAT_VERSION", None)
    if isinstance(version, int) and isinstance(supported, int) and version > supported:
        raise SpecError(
            f"{path}: format_version {version} is newer than this version of Plimsoll reads "
            f"({supported}); upgrade Plimsoll or write the file again with this version"
        )
    return from_data(cls, data, where=str(path))


def write(obj: Any, path: Path) -> None:
    """Write a plain-data object as YAML, or JSON if the name ends in .json."""
    data = plain(obj)
    if path.suffix == ".json":
        write_text(json.dumps(data, indent=2) + "\n", path)
    else:
        write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100), path)


def write_text(text: str, path: Path) -> None:
    """Write under a temporary name beside ``path``, then rename: all or nothing."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise SpecError(f"{path}: cannot be written: {error.strerror}") from None
