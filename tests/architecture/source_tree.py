"""The repository's own source as syntax trees, read once."""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Import", "Module", "modules", "python_files"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Import:
    """One imported module, absolute; ``at_top`` when it happens as the importer is loaded."""

    name: str
    line: int
    at_top: bool

    @property
    def owner(self) -> str:
        """What is imported from, in ``from owner import name``."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Module:
    """A module of the package by dotted name."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        """The first name below ``plimsoll``; "" for the package itself."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else ""

    def imports(self) -> Iterator[Import]:
        """Every import in the file, those inside functions too."""
        inside = {
            id(node)
            for function in ast.walk(self.tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
        }
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                names = [f"{base}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                yield Import(name, node.lineno, id(node) not in inside)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        package = self.name.split(".")
        if self.path.name != "__init__.py":
            package = package[:-1]
        package = package[: len(package) - node.level + 1]
        return ".".join([*package, *([node.module] if node.module else [])])


@functools.cache
def modules() -> tuple[Module, ...]:
    """All modules of the package."""
    found = []
    for path in sorted((ROOT / "plimsoll").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        found.append(Module(name, path, tree))
    return tuple(found)


def python_files() -> list[Path]:
    """Python files of the package, tests, scripts and benchmarks."""
    folders = ("plimsoll", "tests", "scripts", "benchmarks")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
