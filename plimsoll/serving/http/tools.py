"""Tool calls: schemas that force one, and reading one out of what a model wrote.

Three ways of writing are known: ``<tool_call>{...}</tool_call>`` (Hermes, Qwen), a bare object
or ``<|python_tag|>`` with one (Llama), ``[TOOL_CALLS][...]`` (Mistral); each object has a name
of a given tool and arguments or parameters. Text that fits none of them stays text. While it
streams, text that may be the start of a call is held back; calls are given at the end. Left out:
calls written as Python or XML, several calls when one is forced.
Source: the models' chat templates.
"""

import json
import uuid
from collections.abc import Sequence
from typing import Any

from plimsoll.serving.http.protocol import ChatRequest, NamedTool, Tool
from plimsoll.serving.http.replies import FunctionCall, ToolCall

__all__ = ["ForcedCall", "ToolText", "forced_call", "parse_tool_calls"]

OPEN, CLOSE = "<tool_call>", "</tool_call>"
PYTHON_TAG, MISTRAL_TAG = "<|python_tag|>", "[TOOL_CALLS]"
MARKS = (OPEN, PYTHON_TAG, MISTRAL_TAG)


def new_call(name: str, arguments: str) -> ToolCall:
    """A call with an id of its own."""
    function = FunctionCall(name=name, arguments=arguments)
    return ToolCall(id=f"call_{uuid.uuid4().hex[:24]}", function=function)


class ForcedCall:
    """A call that must be made: of one function, or of any of several."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = list(tools)
        self.only = tools[0].function.name if len(tools) == 1 else None

    @property
    def json_schema(self) -> str:
        """What the output is held to: arguments of the only function, or name and arguments."""
        if self.only is not None:
            return json.dumps(_parameters(self._tools[0]))
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": t.function.name}, "arguments": _parameters(t)},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for t in self._tools
        ]
        return json.dumps({"anyOf": calls})

    def read(self, text: str) -> tuple[str | None, list[ToolCall]]:
        """Text and calls of a finished output; cut-off output of several functions stays text."""
        if self.only is not None:
            return None, [new_call(self.only, text)]
        call = _call(_loads(text), {tool.function.name for tool in self._tools})
        return (None, [call]) if call else (text, [])


def forced_call(request: ChatRequest) -> ForcedCall | None:
    """What ``tool_choice`` forces, None for nothing."""
    if isinstance(request.tool_choice, NamedTool):
        name = request.tool_choice.function.name
        return ForcedCall([tool for tool in request.tools or () if tool.function.name == name])
    if request.tool_choice == "required":
        return ForcedCall(request.tools or ())
    return None


def _parameters(tool: Tool) -> dict[str, Any]:
    return tool.function.parameters or {"type": "object"}


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _call(value: Any, names: set[str]) -> ToolCall | None:
    """A call if ``value`` is one of a known tool."""
    if not isinstance(value, dict):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    name = value.get("name")
    if not isinstance(name, str) or name not in names:
        return None
    if isinstance(arguments, str):
        arguments = _loads(arguments)
    if not isinstance(arguments, dict):
        return None
    return new_call(name, json.dumps(arguments, ensure_ascii=False))


def parse_tool_calls(text: str, names: set[str]) -> tuple[str | None, list[ToolCall]]:
    """(text around the calls or None, calls) of a finished output."""
    kept, calls = _split(text, names)
    return (kept.strip() or None if calls else text), calls


def _split(text: str, names: set[str]) -> tuple[str, list[ToolCall]]:
    """(text around the calls with its white space, calls); all of it where nothing is called."""
    if OPEN in text:
        before, *pieces = text.split(OPEN)
        calls, kept = [], [before]
        for piece in pieces:
            inside, _, after = piece.partition(CLOSE)
            call = _call(_loads(inside), names)
            if call is None:
                return text, []
            calls.append(call)
            kept.append(after)
        return "".join(kept), calls
    before, mark, body = "", "", text
    for tag in (PYTHON_TAG, MISTRAL_TAG):
        if tag in text:
            before, mark, body = text.partition(tag)
            break
    value = _loads(body)
    values = value if isinstance(value, list) and mark == MISTRAL_TAG else [value]
    found = [_call(one, names) for one in values]
    calls = [call for call in found if call is not None]
    if not calls or len(calls) < len(found):
        return text, []
    return before, calls


class ToolText:
    """Text of one streaming answer in which a tool may be called."""

    def __init__(self, names: set[str]) -> None:
        self._names = names
        self._held = ""
        self._begun = False
        self._holds_all = False

    def feed(self, text: str) -> str:
        """What can be shown now."""
        self._held += text
        if self._holds_all:
            return ""
        if not self._begun:
            if not self._held.strip():
                return ""
            self._begun = True
            if self._held.lstrip().startswith("{"):
                self._holds_all = True
                return ""
        cut = self._mark_at()
        shown, self._held = self._held[:cut], self._held[cut:]
        self._holds_all = self._held.startswith(MARKS)
        return shown

    def finish(self) -> tuple[str, list[ToolCall]]:
        """(text that was held back and is no call, calls)."""
        return _split(self._held, self._names)

    def _mark_at(self) -> int:
        """Where a mark starts, or may start at the end of what is held; else its length."""
        held = self._held
        found = [at for mark in MARKS if (at := held.find(mark)) >= 0]
        if found:
            return min(found)
        longest = max(map(len, MARKS)) - 1
        for at in range(max(0, len(held) - longest), len(held)):
            if any(mark.startswith(held[at:]) for mark in MARKS):
                return at
        return len(held)
