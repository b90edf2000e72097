"""``plimsoll batch`` on the small model: planned prefixes, any order in, the same order out."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.command_line import plimsoll, spawn
from tests.serving.torch_executor.tiny_llama import make_folder
from tests.serving.torch_executor.tiny_text import write_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("model"))
    write_tokenizer(folder)
    return folder


def prompts(path: Path, *, groups: int, members: int, tokens: int, seed: int = 0) -> list[str]:
    """Shuffled prompts that share a prefix of 160 tokens in groups; their ids."""
    rng = random.Random(seed)
    rows = []
    for group in range(groups):
        prefix = "".join(rng.choice("abcdefgh ") for _ in range(160))
        for member in range(members):
            suffix = "".join(rng.choice("xyz") for _ in range(10 + member))
            row = {"id": f"{group}-{member}", "prompt": prefix + suffix, "max_tokens": tokens}
            rows.append(row)
    rng.shuffle(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(row["id"]) for row in rows]


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_it_computes_what_is_planned_and_answers_in_order(tmp_path: Path, model: Path) -> None:
    file, out = tmp_path / "p.jsonl", tmp_path / "r.jsonl"
    expected = prompts(file, groups=12, members=6, tokens=6)
    ask = ("batch", str(file), "--model", str(model), "--kv-memory", "400KiB", "--quiet")
    done = plimsoll(*ask, "--out", str(out), "--explain", "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert ids(out) == expected
    assert answer["computed_tokens"] == answer["planned_tokens"] < 0.5 * answer["prompt_tokens"]
    assert answer["lru_prefill_tokens"] > 1.3 * answer["computed_tokens"]
    assert answer["num_groups"] == 12 and answer["num_failed"] == 0
    again = plimsoll(*ask, "--out", str(out))
    assert again.code == 2 and "exists; remove it" in again.err
    file.write_text(file.read_text() + '{"id": 1, "prompt": ""}\n')
    bad = plimsoll(*ask, "--out", str(tmp_path / "other.jsonl"))
    assert bad.code == 2 and f"{file}:73: prompt" in bad.err
    assert len(bad.err.strip().splitlines()) == 1
    assert not (tmp_path / "other.jsonl.partial").exists()


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(tmp_path: Path, model: Path) -> None:
    """Two runs are killed; the third ends with what one alone would have written."""
    file, out, whole = (tmp_path / name for name in ("p.jsonl", "r.jsonl", "whole.jsonl"))
    expected = prompts(file, groups=20, members=6, tokens=30)
    words = ("batch", str(file), "--model", str(model), "--quiet", "--replicas", "2")
    partial = tmp_path / "r.jsonl.partial"
    for least in (15, 50):
        process = spawn(*words, "--out", str(out), folder=tmp_path)
        until_s = time.monotonic() + 120
        while not partial.exists() or partial.read_bytes().count(b"\n") <= least:
            assert time.monotonic() < until_s and process.poll() is None, process.stderr
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not out.exists()
    kept = partial.read_bytes().count(b"\n") - 1
    done = plimsoll(*words, "--out", str(out), "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["num_resumed"] >= kept - 1 >= 50
    assert not partial.exists() and ids(out) == expected
    assert plimsoll(*words, "--out", str(whole)).code == 0
    assert whole.read_text() == out.read_text()


def test_what_is_missing_is_said(tmp_path: Path, model: Path) -> None:
    none = plimsoll("batch", str(tmp_path / "none.jsonl"), "--model", str(model))
    assert none.code == 2 and "cannot be read" in none.err
    file = tmp_path / "p.jsonl"
    prompts(file, groups=1, members=2, tokens=4)
    nowhere = plimsoll("batch", str(file), "--model", str(tmp_path / "nowhere"))
    assert nowhere.code == 2 and "no such model folder or plan file" in nowhere.err
    small = plimsoll("batch", str(file), "--model", str(model), "--kv-memory", "40KiB")
    assert small.code == 3 and "KV" in small.err, small.err
