"""Files: short, named for what they hold, headed by what they are, tied to no one machine."""

import ast
import re
from pathlib import Path

import pytest

from tests.architecture.source_tree import ROOT, Module, modules, python_files

MAX_LINES = 600
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"}
TEXT_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".json", ".html", ".svg"}
MACHINE_PATH = re.compile(
    "(?<![A-Za-z0-9_.])/(?:" + "|".join(["work", "home", "Users", "root"]) + ")/"
)

in_every_module = pytest.mark.parametrize("module", modules(), ids=lambda m: m.name)


def constants_first(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then functions: the other usual order of ``__all__``."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def text_files() -> list[Path]:
    """Files of the repository that people read."""
    folders = ["plimsoll", "tests", "scripts", "benchmarks", "docs"]
    found = [p for f in folders for p in (ROOT / f).rglob("*") if p.suffix in TEXT_SUFFIXES]
    found += [p for p in ROOT.iterdir() if p.suffix in TEXT_SUFFIXES or p.name == "Makefile"]
    return sorted(path for path in found if path.is_file())


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_length_and_name(path: Path) -> None:
    with path.open(encoding="utf-8") as lines:
        assert sum(1 for _ in lines) <= MAX_LINES
    assert path.stem not in EMPTY_NAMES


@in_every_module
def test_modules_say_what_they_are(module: Module) -> None:
    assert ast.get_docstring(module.tree)


@in_every_module
def test_exported_names_are_sorted_and_exist(module: Module) -> None:
    body = module.tree.body
    defined: set[str] = set()
    exported: list[str] | None = None
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {t.id for t in targets if isinstance(t, ast.Name)}
            defined |= names
            if "__all__" in names and node.value is not None:
                exported = ast.literal_eval(node.value)
    public = {name for name in defined if not name.startswith("_")}
    if exported is None:
        assert not public or module.name.endswith(".__main__"), "__all__ is missing"
        return
    assert exported in (sorted(exported), sorted(exported, key=constants_first)), "not sorted"
    assert len(set(exported)) == len(exported)
    assert set(exported) <= defined, set(exported) - defined


@pytest.mark.parametrize(
    "module", [m for m in modules() if m.path.name == "__init__.py"], ids=lambda m: m.name
)
def test_nothing_runs_in_a_folder(module: Module) -> None:
    """An ``__init__`` holds imports, dispatch tables and who picks from them; no classes."""
    allowed = ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.Expr | ast.FunctionDef
    for node in module.tree.body:
        assert isinstance(node, allowed), f"line {node.lineno}"
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"line {node.lineno}"


def test_no_paths_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not found


def test_the_path_pattern_finds_what_it_should() -> None:
    for name in ("work", "home", "Users", "root"):
        assert MACHINE_PATH.search(f'open("/{name}/someone/x")')
        assert not MACHINE_PATH.search(f"see /{name}space/x and docs/{name}/y")
