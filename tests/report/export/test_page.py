"""The how-to page shows what the code prints and the versions it was written for."""

import contextlib
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from plimsoll.report.export import EXPORTERS, export_plan
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.plan import OrcaConfig
from tests.export_plans import COLOCATED, context

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "export.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def test_the_example_prints_what_the_page_shows() -> None:
    (code,) = blocks("python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(PAGE), "exec"), {})
    assert printed.getvalue() == blocks("text")[0]


def test_the_refusal_shown_is_the_one_raised() -> None:
    plan = replace(COLOCATED, pools=(replace(COLOCATED.pools[0], policy=OrcaConfig()),))
    with pytest.raises(UnsupportedError) as refusal:
        export_plan(plan, "vllm", context(plan))
    assert str(refusal.value) == blocks("text")[1].strip()


def test_every_target_and_its_versions_are_listed() -> None:
    page = PAGE.read_text()
    for name, exporter in EXPORTERS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert ", ".join(exporter.versions) in row
