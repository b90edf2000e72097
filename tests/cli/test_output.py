"""What verbs print: JSON with units and a version, plain text within 80 columns."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import PLAN, TRACE, plimsoll, spawn

ROWS = "".join(f"2023-11-16 18:{k // 20:02d}:{3 * (k % 20):02d}.0,500,50\n" for k in range(200))
SERVE = ["simulate", "plan.yaml", "-w", "500/50", "--requests", "200"]
ANSWERS = [
    ["fit", "qwen3-32b", "--on", "8xH100-SXM"],
    ["fit", "deepseek-v3", "--on", "2x(8xH200-SXM)+16xB200-SXM", "--context", "32k"],
    ["peak", "yi-34b-200k", "--on", "2xA100-SXM-80", "--context", "4k,50k,200k"],
    SERVE,
    [*SERVE, "--rate", "900req/s"],
    ["compare", "plan.yaml", "one.yaml", "-w", "500/50", "--rate", "2req/s"],
    ["export", "plan.yaml", "--to", "vllm", "--out", "files"],
    ["trace", "show", "trace.csv"],
    ["trace", "show", "agent"],
    ["trace", "fit", "trace.csv", "--out", "model.yaml"],
    ["trace", "make", "chat", "--requests", "300", "--rate", "3req/s", "--out", "made.jsonl"],
    ["doctor"],
    *(
        ["list", kind]
        for kind in ("models", "hardware", "workloads", "policies", "catalog", "exports")
    ),
]
NEXT = [words for words in ANSWERS if words[0] != "export"]
BARE = re.compile(r"(time|duration|latency|bandwidth|memory|power|energy|price|cost)$")


def named(words: list[str]) -> str:
    return " ".join(words)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "one.yaml").write_text(PLAN.replace("replicas: 2", "replicas: 1"))
    (tmp_path / "trace.csv").write_text(TRACE + ROWS)
    return tmp_path


def keys(data: Any, own: str = "") -> set[str]:
    """Every key of nested data that holds a number."""
    if isinstance(data, dict):
        return {found for key, value in data.items() for found in keys(value, key)}
    if isinstance(data, list):
        return {found for value in data for found in keys(value, own)}
    return {own} if isinstance(data, int | float) and not isinstance(data, bool) else set()


@pytest.mark.parametrize("words", ANSWERS, ids=named)
def test_json(words: list[str]) -> None:
    done = plimsoll(*words, "--json")
    assert done.code in (0, 1) and done.err == ""
    data = json.loads(done.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert data["format_version"] == 1
    if words[0] != "list":  # its columns are texts with units in them
        assert [key for key in keys(data) if BARE.search(key)] == []


@pytest.mark.parametrize("words", ANSWERS, ids=named)
def test_text_is_plain_and_narrow(words: list[str]) -> None:
    done = plimsoll(*words)
    assert done.code in (0, 1)
    assert "\x1b" not in done.out
    lines = done.out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert [line for line in lines if line != line.rstrip()] == []
    assert "None" not in done.out and "nan" not in done.out.lower().split()


@pytest.mark.parametrize("words", NEXT, ids=named)
def test_the_next_command_is_one(words: list[str]) -> None:
    from scripts.check_docs import Block, commands, problem

    done = plimsoll(*words)
    text = done.out[done.out.rindex("next:  ") + 7 :]
    assert "PLAN" not in text
    block = Block("bash", tuple(text.splitlines()), 0, False)
    (found,) = commands(block)
    assert problem(found[1]) == ""


@pytest.mark.slow
def test_next_commands_lead_from_fit_to_files(folder: Path) -> None:
    """The chain a user follows, with every command as it was proposed."""
    from scripts.check_docs import Block, commands

    def proposed(out: str) -> list[str]:
        text = out[out.rindex("next:  ") + 7 :]
        ((_, words),) = commands(Block("bash", tuple(text.splitlines()), 0, False))
        return words

    small = ["plan", "llama-3.1-8b", "--on", "1xL4", "--workload", "500/50", "--jobs", "1"]
    done = plimsoll(*small, "--ttft-p99", "3s", "--tpot-p99", "150ms")
    assert done.code == 0, done.err
    saved = proposed(done.out)
    assert saved[-2:] == ["--out", "plan.yaml"]
    assert saved[: len(small)] == small
    answered = plimsoll(*saved)
    simulate = proposed(answered.out)
    assert simulate[:2] == ["simulate", "plan.yaml"]
    served = plimsoll(*simulate, "--requests", "300")
    assert served.code == 0
    last = proposed(served.out)
    assert last[0] in ("export", "plan")


@pytest.mark.parametrize("words", [ANSWERS[0], SERVE], ids=named)
def test_numbers_say_where_they_come_from(words: list[str]) -> None:
    out = plimsoll(*words).out
    assert any(word in out for word in ("calibrated", "modeled", "extrapolated"))


def test_no_color_and_pipes(folder: Path) -> None:
    for changes in ({}, {"NO_COLOR": "1"}, {"TERM": "xterm-256color", "COLORTERM": "truecolor"}):
        process = spawn("fit", "qwen3-8b", "--on", "L4", folder=folder, **changes)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and err == ""
        assert "\x1b" not in out and max(map(len, out.splitlines())) <= 80


def test_long_names_wrap(folder: Path) -> None:
    deep = folder / ("a-long-folder-name-" * 5)
    deep.mkdir()
    plan = deep / "a plan with spaces.yaml"
    plan.write_text(PLAN)
    done = plimsoll("simulate", str(plan), "-w", "500/50", "--requests", "50")
    assert done.code == 0
    tail = done.out[done.out.rindex("next:  ") :]
    assert f"'{plan}'" in tail, "the name stays whole and quoted"


def test_the_page_is_written_beside_the_answer(folder: Path) -> None:
    done = plimsoll(*SERVE, "--report", "page.html", "--json")
    assert done.code == 0 and json.loads(done.out)["format_version"] == 1
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and "plimsoll simulate plan.yaml" in page


def test_figures_writes_every_picture_as_svg_and_png(tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    done = plimsoll("fit", "llama-3.1-8b", "--on", "1xH100-SXM", "--figures", str(folder))
    assert done.code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["1-memory.png", "1-memory.svg"]
    assert (folder / "1-memory.svg").read_text().lstrip().startswith("<?xml")
    assert (folder / "1-memory.png").read_bytes().startswith(b"\x89PNG")
    refused = plimsoll("fit", "llama-3.1-8b", "--on", "1xH100-SXM", "--figures", __file__)
    assert refused.code == 2 and "is a file" in refused.err
