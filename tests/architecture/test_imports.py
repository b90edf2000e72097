"""Imports point one way: each room sees only the rooms listed for it.

The table is that of the design: specifications at the bottom, then costs, then what serves,
trains and compresses, then planning; the catalog, the verbs and the command line see all.
"""

import functools
import subprocess
import sys
from collections.abc import Callable
from operator import attrgetter

import pytest

from tests.architecture.source_tree import ROOT, Module, modules

BELOW_PLANNING = {
    "spec",
    "library",
    "cost",
    "serving",
    "training",
    "models",
    "compress",
    "data",
    "laws",
    "cluster",
}
EVERYTHING_BUT_SHELLS = BELOW_PLANNING | {"planning", "evals", "report", "catalog", "api"}
MAY_IMPORT = {
    "": set(),
    "library": set(),
    "spec": set(),
    "cost": {"spec"},
    "models": {"spec"},
    "report": {"spec"},
    "laws": {"spec", "cost"},
    "serving": {"spec", "cost", "models"},
    "training": {"spec", "cost", "models"},
    "compress": {"spec", "models"},
    "data": {"spec", "models"},
    "evals": {"spec", "cost", "serving", "models"},
    "cluster": {"spec", "cost", "serving"},
    "planning": BELOW_PLANNING,
    "catalog": EVERYTHING_BUT_SHELLS,
    "api": EVERYTHING_BUT_SHELLS,
    "cli": EVERYTHING_BUT_SHELLS,
    "web": EVERYTHING_BUT_SHELLS,
}
HEAVY = {
    "torch",
    "pandas",
    "polars",
    "pyarrow",
    "matplotlib",
    "plotly",
    "ray",
    "numba",
    "fastapi",
    "uvicorn",
    "httpx",
    "transformers",
}
NOT_IN_SPEC_AND_COST = {"torch", "pandas", "polars", "matplotlib", "plotly", "ray"}
CLOCKS_AND_EFFECTS = {
    "time",
    "datetime",
    "random",
    "secrets",
    "uuid",
    "torch",
    "asyncio",
    "threading",
    "socket",
    "subprocess",
    "os",
}
TORCH_ROOMS = {"models", "training", "compress", "data", "catalog"}
HEAVY_MODULES = (
    ".executors.torch",
    "plimsoll.evals.tinylm_",
    "plimsoll.evals.fidelity_run",
    "plimsoll.evals.http_replay",
    "plimsoll.evals.overlapped_ranks",
    "plimsoll.evals.real_runs",
    "plimsoll.evals.muon",
    "plimsoll.serving.http",
)

POLICY_MODULES = (
    "plimsoll.serving.policies",
    "plimsoll.serving.policy",
    "plimsoll.serving.routers",
)
NAME = attrgetter("name")


def may_be_heavy(module: Module) -> bool:
    """Whether a module may import a heavy library as it is loaded."""
    return module.room in TORCH_ROOMS or any(part in module.name for part in HEAVY_MODULES)


@functools.cache
def heavy_modules() -> frozenset[str]:
    """Names of the modules that do."""
    found = those(lambda m: any(i.at_top and i.name.split(".")[0] in HEAVY for i in m.imports()))
    return frozenset(module.name for module in found)


def those(wanted: Callable[[Module], bool]) -> list[Module]:
    """The modules for which ``wanted`` holds."""
    return [module for module in modules() if wanted(module)]


def rooms_seen(module: Module) -> dict[str, int]:
    """Other rooms a module imports, with the line of the first import."""
    seen: dict[str, int] = {}
    for found in module.imports():
        parts = found.name.split(".")
        if parts[0] == "plimsoll" and len(parts) > 1:
            seen.setdefault(parts[1], found.line)
    seen.pop("__version__", None)
    seen.pop(module.room, None)
    return seen


@pytest.mark.parametrize("module", modules(), ids=NAME)
def test_rooms_import_only_what_lies_below(module: Module) -> None:
    assert module.room in MAY_IMPORT, f"{module.room} is not a room of the design"
    wrong = {
        room: line
        for room, line in rooms_seen(module).items()
        if room not in MAY_IMPORT[module.room]
    }
    assert not wrong, f"{module.path.relative_to(ROOT)} imports {wrong} (room: line)"


def test_the_table_has_no_way_back() -> None:
    """Below the catalog, following the table never returns to where it started."""
    reach = {room: set(MAY_IMPORT[room]) for room in MAY_IMPORT if room not in ("catalog", "api")}
    for _ in reach:
        for room, below in reach.items():
            reach[room] = below.union(*(reach.get(other, set()) for other in below))
    assert not [room for room, below in reach.items() if room in below]


@pytest.mark.parametrize("module", those(lambda m: m.room in ("spec", "cost", "library")), ids=NAME)
def test_spec_and_cost_stay_light(module: Module) -> None:
    assert not [i for i in module.imports() if i.name.split(".")[0] in NOT_IN_SPEC_AND_COST]


@pytest.mark.parametrize("module", those(lambda m: not may_be_heavy(m)), ids=NAME)
def test_heavy_imports_stay_inside_functions(module: Module) -> None:
    """Outside the rooms that are about tensors, the executor and the checks that own some."""
    assert not [i for i in module.imports() if i.at_top and i.name.split(".")[0] in HEAVY]


@pytest.mark.parametrize("module", modules(), ids=NAME)
def test_heavy_modules_are_reached_from_inside_functions(module: Module) -> None:
    """Who imports them at its top is itself one of them, so the command line starts light."""
    heavy = heavy_modules()
    if module.name not in heavy and not may_be_heavy(module):
        assert not [i for i in module.imports() if i.at_top and {i.name, i.owner} & heavy]


@pytest.mark.parametrize("module", those(lambda m: m.name.startswith(POLICY_MODULES)), ids=NAME)
def test_policies_know_no_clock_and_no_executor(module: Module) -> None:
    for found in module.imports():
        assert found.name.split(".")[0] not in CLOCKS_AND_EFFECTS, f"line {found.line}"
        assert not found.name.startswith(("numpy.random", "plimsoll.serving.executors")), (
            f"line {found.line}"
        )


def test_there_are_policies_to_check() -> None:
    policies = [m for m in modules() if m.name.startswith("plimsoll.serving.policies.")]
    assert len(policies) >= 4


def test_spec_and_cost_load_without_heavy_libraries() -> None:
    """The walk above sees our files; this sees what they draw in."""
    names = [m.name for m in modules() if m.room in ("spec", "cost")]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
