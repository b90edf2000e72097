"""Results of an offline batch: kept as they come, in the end one file in the order of the prompts.

While a batch runs, every finished request is a line of ``OUT.partial``: a crash loses what was
under way and nothing else, and the next run goes on with the rest. A line that was cut short is
dropped. At the end all results are written beside ``OUT`` and put in its place in one step. One
process at a time holds the journal.
Leaves out: results spread over several machines.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from plimsoll.serving.batch_prompts import BatchPrompt
from plimsoll.spec.errors import SpecError

__all__ = ["Journal", "result_of"]

_SYNC_S = 1.0


class Journal:
    """What has been answered. ``key`` says which batch, model and settings it belongs to.

    Raises:
        SpecError: ``out`` exists, another run holds the journal, or it is another batch's.
    """

    def __init__(self, out: Path, key: Mapping[str, Any]) -> None:
        self._out = out
        self._path = out.with_name(out.name + ".partial")
        self.done: dict[int, Any] = {}
        if out.exists() and not self._path.exists():
            raise SpecError(f"{out}: exists; remove it, or name another --out")
        try:
            self._file = self._path.open("a+b")
        except OSError as error:
            raise SpecError(f"{self._path}: cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise SpecError(
                f"{self._path}: another run is writing it; wait for it, or name another --out"
            ) from None
        try:
            self._read(key)
        except SpecError:
            self._file.close()
            raise
        self._synced_s = time.monotonic()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _read(self, key: Mapping[str, Any]) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # a line cut short by a crash
            self._file.truncate(whole)
        lines = data[:whole].splitlines()
        if not lines:
            self._append({"format_version": 1, **key})
            return
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if number == 1:
                    found = {name: row.get(name) for name in key}
                    if row.get("format_version") != 1 or found != dict(key):
                        raise SpecError(
                            f"{self._path}: belongs to another batch, model or settings; remove "
                            "it, or name another --out"
                        )
                else:
                    self.done[int(row["index"])] = row["result"]
            except (ValueError, KeyError, TypeError, AttributeError):
                raise SpecError(
                    f"{self._path}:{number}: not a line of this journal; remove the file to start "
                    "again"
                ) from None

    def add(self, index: int, result: Any) -> None:
        """Keep the result of the ``index``-th prompt."""
        self.done[index] = result
        self._append({"index": index, "result": result})

    def _append(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        if time.monotonic() - getattr(self, "_synced_s", 0.0) > _SYNC_S:
            os.fsync(self._file.fileno())
            self._synced_s = time.monotonic()

    def finish(self, num_prompts: int) -> None:
        """Write all results in order, in one step, and drop the journal."""
        os.fsync(self._file.fileno())
        part = self._out.with_name(f".{self._out.name}.{os.getpid()}")
        try:
            with part.open("wb") as file:
                for index in range(num_prompts):
                    row = json.dumps(self.done[index], ensure_ascii=False)
                    file.write(row.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._out)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
        self._path.unlink()


def result_of(
    prompt: BatchPrompt,
    *,
    model: str,
    text: str,
    tokens: Sequence[int],
    finish: str,
    error: str = "",
) -> dict[str, Any]:
    """A line of results, in the style of the prompt's line."""
    usage = {
        "prompt_tokens": len(prompt.tokens),
        "completion_tokens": len(tokens),
        "total_tokens": len(prompt.tokens) + len(tokens),
    }
    if prompt.style == "plain":
        if error:
            return {"id": prompt.id, "error": error}
        return {"id": prompt.id, "text": text, "finish_reason": finish, "usage": usage}
    if error:
        failed = {"code": "failed", "message": error}
        row = {"id": f"batch_req_{prompt.line}", "custom_id": prompt.id, "response": None}
        return {**row, "error": failed}
    chat = prompt.style == "chat"
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
    if chat:
        choice["message"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = text
    body = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{prompt.line}",
        "object": "chat.completion" if chat else "text_completion",
        "model": model,
        "choices": [choice],
        "usage": usage,
    }
    response = {"status_code": 200, "request_id": f"req_{prompt.line}", "body": body}
    return {
        "id": f"batch_req_{prompt.line}",
        "custom_id": prompt.id,
        "response": response,
        "error": None,
    }
