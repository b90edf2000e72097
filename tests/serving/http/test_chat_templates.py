"""Chat templates: the same text as transformers renders, inside a sandbox."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from plimsoll.serving.http.errors import ApiError
from plimsoll.serving.http.templates import ChatTemplate, read_template
from plimsoll.spec.errors import SpecError
from tests.serving.http.small_text import (
    ALTERNATING,
    DATED,
    PLAIN,
    TEMPLATES,
    WITH_TOOLS,
    byte_tokenizer,
)

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look <here> & there: 日本",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"at": "ü<"}}}
SHORT = [{"role": "user", "content": "  Hallo <b> \n"}]
TURNS = [*SHORT, {"role": "assistant", "content": "Ja."}, {"role": "user", "content": "Und?"}]
TOOLED = [
    {"role": "system", "content": " Help. "},
    *SHORT,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "42", "tool_call_id": "c1"},
    {"role": "user", "content": "Thanks"},
]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@pytest.mark.parametrize("messages", [SHORT, TURNS, TOOLED], ids=["short", "turns", "tooled"])
@pytest.mark.parametrize("tools", [None, [TOOL]], ids=["plain", "tools"])
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parity_with_transformers(
    name: str, messages: list[Any], tools: list[Any] | None, prompt: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), chat_template=TEMPLATES[name], **SPECIAL
    )
    ours = ChatTemplate({"default": TEMPLATES[name]}, SPECIAL)
    variables = {"thinking": prompt}

    def reference() -> str:
        return theirs.apply_chat_template(
            messages, tools=tools, add_generation_prompt=prompt, tokenize=False, **variables
        )

    def mine() -> str:
        return ours.render(messages, tools=tools, add_generation_prompt=prompt, variables=variables)

    if name == "alternating" and messages is TOOLED:
        with pytest.raises(Exception, match="must alternate"):
            reference()
        with pytest.raises(ApiError, match="must alternate.*café"):
            mine()
    else:
        assert mine() == reference()


def test_dates_are_today() -> None:
    text = ChatTemplate({"default": DATED}, {}).render(SHORT)
    assert f"Today is {datetime.now().year}." in text


def test_a_template_for_tools_is_taken_with_tools() -> None:
    template = ChatTemplate({"default": PLAIN, "tool_use": WITH_TOOLS}, SPECIAL)
    assert "Tools:" not in template.render(SHORT)
    assert "Tools:" in template.render(SHORT, tools=[TOOL])


@pytest.mark.parametrize(
    "hostile",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% set n = namespace(__class__=1) %}{{ n }}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{{ '%s' * 10 % messages }}{{ 1 / 0 }}",
        "{{ range(999999999) | list | length }}",
    ],
)
def test_templates_cannot_reach_out(hostile: str) -> None:
    messages = [dict(SHORT[0])]
    with pytest.raises(ApiError) as caught:
        ChatTemplate({"default": hostile}, {}).render(messages)
    assert caught.value.status == 400 and messages == SHORT


def test_messages_a_template_stumbles_over_are_a_400() -> None:
    template = ChatTemplate({"default": ALTERNATING}, {})
    with pytest.raises(ApiError, match="TypeError|refuses"):
        template.render([{"role": "user", "content": "x"}, {"role": "assistant", "content": 3}])


def test_files(tmp_path: Path) -> None:
    assert read_template(tmp_path) is None
    config = {
        "bos_token": {"content": "<s>", "lstrip": False},
        "eos_token": "</s>",
        "chat_template": [
            {"name": "default", "template": "{{ bos_token }}one"},
            {"name": "tool_use", "template": "two{{ eos_token }}"},
        ],
    }
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    template = read_template(tmp_path)
    assert template is not None
    assert (template.render(SHORT), template.render(SHORT, tools=[TOOL])) == ("<s>one", "two</s>")
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}three", encoding="utf-8")
    template = read_template(tmp_path)
    assert template is not None and template.render(SHORT) == "<s>three"


def test_broken_files_say_where(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("\n{% if %}", encoding="utf-8")
    with pytest.raises(SpecError, match="line 2"):
        read_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(SpecError, match=r"tokenizer_config\.json: not JSON"):
        read_template(tmp_path)
    with pytest.raises(SpecError, match="none is named default"):
        ChatTemplate({"rag": "x"}, {})
