"""Reading tool calls out of text, whole and in pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plimsoll.serving.http.protocol import Tool
from plimsoll.serving.http.tools import ForcedCall, ToolText, parse_tool_calls

NAMES = {"f", "g"}
ONE = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "content", "called"),
    [
        (ONE, None, ["f"]),
        ("Hm. " + ONE + ONE.replace('"f"', '"g"'), "Hm.", ["f", "g"]),
        (ONE.removesuffix("</tool_call>"), None, ["f"]),
        ('{"name": "f", "parameters": {"x": 1}}', None, ["f"]),
        ('<|python_tag|>{"name": "f", "parameters": {"x": 1}}', None, ["f"]),
        ('[TOOL_CALLS][{"name": "f", "arguments": {"x": 1}}]', None, ["f"]),
        ('{"name": "f", "arguments": "{\\"x\\": 1}"}', None, ["f"]),
    ],
)
def test_formats(text: str, content: str | None, called: list[str]) -> None:
    got, calls = parse_tool_calls(text, NAMES)
    assert got == content and [call.function.name for call in calls] == called
    assert all(json.loads(call.function.arguments) == {"x": 1} for call in calls)
    assert len({call.id for call in calls}) == len(calls)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        '{"name": "unknown", "arguments": {}}',
        '{"name": "f"}',
        '{"name": "f", "arguments": [1]}',
        '{"name": ["f"], "arguments": {}}',
        "<tool_call>not json</tool_call>",
        ONE + "<tool_call>{}</tool_call>",
        "[TOOL_CALLS][]",
        "[" * 5000,
        "",
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert parse_tool_calls(text, NAMES) == (text or "", [])


PIECES = st.lists(
    st.sampled_from(
        ["a", " ", "<", "<tool", "_call>", "</tool_call>", "{", "}", '"name"', ": ", '"f"']
        + [ONE, "[TOOL", "_CALLS]", "<|python", "_tag|>", '{"name": "f", "arguments": {}}']
    ),
    max_size=12,
)


@given(PIECES)
def test_streaming_says_what_the_whole_text_says(pieces: list[str]) -> None:
    """No text is lost or shown twice, and calls are those of the finished text."""
    stream = ToolText(NAMES)
    shown = "".join(stream.feed(piece) for piece in pieces)
    rest, calls = stream.finish()
    whole = "".join(pieces)
    content, expected = parse_tool_calls(whole, NAMES)
    assert [c.function for c in calls] == [c.function for c in expected]
    if not expected:
        assert shown + rest == whole == content
    else:
        assert (shown + rest).strip() == (content or "")


def test_text_before_a_possible_call_is_shown_at_once() -> None:
    stream = ToolText(NAMES)
    assert stream.feed("I think <to") == "I think "
    assert stream.feed("day") == "<today"
    assert stream.feed(" <tool_call>") == " "
    assert stream.feed("{") == ""


def test_schema_of_a_forced_call() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    tools = [
        Tool.model_validate({"type": "function", "function": {"name": name, **extra}})
        for name, extra in (("f", {"parameters": schema}), ("g", {}))
    ]
    assert json.loads(ForcedCall(tools[:1]).json_schema) == schema
    both = json.loads(ForcedCall(tools).json_schema)["anyOf"]
    assert [one["properties"]["name"]["const"] for one in both] == ["f", "g"]
    assert ForcedCall(tools).read('{"name": "f", "argum') == ('{"name": "f", "argum', [])
