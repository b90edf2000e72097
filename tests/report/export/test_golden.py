"""The files of three plans, kept whole so that a change in any of them is seen.

Written anew by running this module: ``python -m tests.report.export.test_golden``.
"""

import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from plimsoll.report.export import EXPORTERS, ExportedFile, export_plan
from plimsoll.spec.plan import LeastWorkRouter, Parallel, ServingPlan
from tests.export_plans import COLOCATED, DISAGGREGATED, EXPERTS, context

GOLDEN = Path(__file__).parent / "golden"
SMALL = replace(
    DISAGGREGATED,
    pools=tuple(replace(p, parallel=Parallel(tp=2)) for p in DISAGGREGATED.pools),
)
CASES: dict[str, tuple[str, ServingPlan]] = {
    "vllm-colocated": ("vllm", COLOCATED),
    "vllm-disaggregated": ("vllm", DISAGGREGATED),
    "vllm-experts": ("vllm", EXPERTS),
    "sglang-colocated": ("sglang", replace(COLOCATED, engine="sglang")),
    "sglang-disaggregated": ("sglang", replace(DISAGGREGATED, engine="sglang")),
    "trtllm-colocated": ("trtllm", replace(COLOCATED, engine="trtllm")),
    "trtllm-disaggregated": ("trtllm", replace(SMALL, engine="trtllm")),
    "kubernetes-colocated": ("kubernetes", COLOCATED),
    "kubernetes-disaggregated": ("kubernetes", replace(DISAGGREGATED, engine="sglang")),
    "kubernetes-experts": ("kubernetes", EXPERTS),
    "dynamo-disaggregated": ("dynamo", DISAGGREGATED),
    "llm-d-disaggregated": ("llm-d", DISAGGREGATED),
    "llm-d-experts": ("llm-d", replace(EXPERTS, router=LeastWorkRouter())),
    "bench-colocated": ("bench", COLOCATED),
}


def exported(case: str) -> tuple[ExportedFile, ...]:
    target, plan = CASES[case]
    return export_plan(plan, target, context(plan))


@pytest.mark.parametrize("case", CASES)
def test_files_are_as_kept(case: str) -> None:
    found = {f.name: f.text for f in exported(case)}
    kept = {p.name: p.read_text() for p in (GOLDEN / case).iterdir()}
    assert found == kept


@pytest.mark.parametrize("case", CASES)
def test_every_file_names_its_versions_and_parses(case: str) -> None:
    target, _ = CASES[case]
    for file in exported(case):
        if file.name.endswith(".jsonl"):
            continue
        versions = EXPORTERS[target].versions
        assert any(f"{version}" in file.text.split("Plan:")[0] for version in versions)
        if file.name.endswith(".sh"):
            assert file.executable
            assert file.text.startswith("#!/usr/bin/env bash\n")
            assert shlex.split(file.text.replace("\\\n", " "), comments=True)
            done = subprocess.run(
                ["bash", "-n"], input=file.text, text=True, capture_output=True, timeout=20
            )
            assert done.returncode == 0, done.stderr
        if file.name.endswith(".yaml"):
            assert all(isinstance(d, dict) for d in yaml.safe_load_all(file.text))
        assert not re.search(r"[ \t]+\n", file.text)


@pytest.mark.parametrize("case", CASES)
def test_the_same_plan_gives_the_same_bytes(case: str) -> None:
    assert exported(case) == exported(case)


def _write() -> None:
    for case in CASES:
        folder = GOLDEN / case
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for file in exported(case):
            (folder / file.name).write_text(file.text)


if __name__ == "__main__":
    _write()
