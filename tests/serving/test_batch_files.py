"""Prompts of a batch and their results: bad lines are named, nothing is lost or written twice."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from plimsoll.serving.batch_prompts import BatchPrompt, read_prompts
from plimsoll.serving.batch_results import Journal, result_of
from plimsoll.spec.errors import SpecError

KEY = {"prompts_sha256": "a", "model": "m"}


def read(tmp_path: Path, *lines: str) -> list[BatchPrompt]:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")

    def encode(prompt: object, style: str) -> list[int]:
        text = prompt if isinstance(prompt, str) else "".join(m["content"] for m in prompt)  # type: ignore[attr-defined]
        return [ord(c) for c in text]

    return read_prompts(path, encode, max_tokens=7, max_model_len=50, vocab_size=256)


def test_both_kinds_of_lines(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 3}
    found = read(
        tmp_path,
        '{"id": "a", "prompt": "abc", "max_tokens": 5}',
        "",
        '{"prompt": [1, 2, 3], "temperature": 0.5, "stop": "x"}',
        json.dumps(
            {"custom_id": "c", "method": "POST", "url": "/v1/completions", "body": {"prompt": "q"}}
        ),
        json.dumps(
            {"custom_id": "d", "method": "POST", "url": "/v1/chat/completions", "body": chat}
        ),
    )
    assert [p.id for p in found] == ["a", "3", "c", "d"]
    assert [p.line for p in found] == [1, 3, 4, 5]
    assert [len(p.tokens) for p in found] == [3, 3, 1, 2]
    assert [p.params.max_tokens for p in found] == [5, 7, 7, 3]
    assert [p.params.temperature for p in found] == [0.0, 0.5, 1.0, 1.0]
    assert found[1].params.stop == ("x",) and found[1].params.seed == 3
    texts = [result_of(p, model="m", text="out", tokens=[1, 2], finish="length") for p in found]
    assert texts[0]["text"] == "out" and texts[0]["usage"]["total_tokens"] == 5
    assert texts[2]["response"]["body"]["choices"][0]["text"] == "out"
    assert texts[3]["response"]["body"]["choices"][0]["message"]["content"] == "out"
    failed = result_of(found[2], model="m", text="", tokens=[], finish="error", error="gone")
    assert failed["response"] is None and failed["error"]["message"] == "gone"


GOOD = '{"id": "a", "prompt": "abc"}'


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "p.jsonl:2: not JSON"),
        ("[1]", "p.jsonl:2: expected an object"),
        ('{"id": "a", "prompt": "x"}', "id 'a' is that of line 1 too"),
        ('{"id": "b"}', "p.jsonl:2: prompt: expected text"),
        ('{"id": "b", "prompt": ""}', "p.jsonl:2: prompt: expected text"),
        ('{"id": "b", "prompt": [1, "x"]}', "a list of token ids"),
        ('{"id": "b", "prompt": [999]}', "token ids must be 0 to 255"),
        ('{"id": "b", "prompt": "x", "max_tokens": 0}', "max_tokens is 0"),
        ('{"id": "b", "prompt": "x", "max_tokens": 60}', "the model's limit is 50 together"),
        ('{"id": "b", "promt": "x"}', "unknown field 'promt'.*prompt"),
        ('{"id": "b", "prompt": "x", "temperature": -1}', "temperature is -1"),
        ('{"id": "b", "prompt": "x", "stop": 3}', "stop is 3"),
        ('{"custom_id": "b", "url": "/v1/images", "body": {}}', "expected POST to /v1/completions"),
        (
            '{"custom_id": "b", "url": "/v1/completions", "body": {"prompt": "x", "n": 2}}',
            "n and stream are not for batches",
        ),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        read(tmp_path, GOOD, line)


def test_no_prompts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no prompt"):
        read(tmp_path, "", " ")
    with pytest.raises(SpecError, match="cannot be read"):
        read_prompts(
            tmp_path / "none", lambda p, s: [], max_tokens=1, max_model_len=9, vocab_size=9
        )


def test_results_come_in_the_order_of_the_prompts(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Journal(out, KEY) as journal:
        for index in (2, 0, 1):
            journal.add(index, {"id": index})
        assert not out.exists(), "nothing is there before all is"
        journal.finish(3)
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [0, 1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl"]
    with pytest.raises(SpecError, match="exists; remove it"):
        Journal(out, KEY)


def torn(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"index": 7, "resu')


def untouched(path: Path) -> None:
    assert path.exists()


@pytest.mark.parametrize("crash", [torn, untouched])
def test_a_crash_loses_only_what_was_under_way(
    tmp_path: Path, crash: Callable[[Path], None]
) -> None:
    out = tmp_path / "out.jsonl"
    with Journal(out, KEY) as journal:
        journal.add(3, {"id": "three"})
        journal.add(1, {"id": "one"})
    crash(tmp_path / "out.jsonl.partial")
    with Journal(out, KEY) as journal:
        assert journal.done == {3: {"id": "three"}, 1: {"id": "one"}}
        journal.add(0, {"id": "zero"})
    with Journal(out, KEY) as journal:
        assert sorted(journal.done) == [0, 1, 3]


def test_a_journal_belongs_to_one_batch_and_one_run(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Journal(out, KEY) as journal:
        journal.add(0, {})
        with pytest.raises(SpecError, match="another run is writing it"):
            Journal(out, KEY)
    with pytest.raises(SpecError, match="another batch, model or settings"):
        Journal(out, {**KEY, "model": "other"})
    (tmp_path / "out.jsonl.partial").write_text('{"format_version": 1, "x": 1}\nbad\n')
    with pytest.raises(SpecError, match=r"partial:2: not a line of this journal"):
        Journal(out, {"x": 1})
