"""Data as YAML text, in the order it was built, for files that people read and tools load."""

from collections.abc import Sequence
from typing import Any

import yaml

__all__ = ["documents", "mapping"]


class _Dumper(yaml.SafeDumper):
    """Lists indented under their key; no anchors, which some loaders refuse."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def mapping(data: dict[str, Any]) -> str:
    """One document without a marker."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000))


def documents(items: Sequence[dict[str, Any]]) -> str:
    """Several documents, each after a ``---``."""
    return "".join("---\n" + mapping(item) for item in items)
