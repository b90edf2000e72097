"""Chat templates as Hugging Face tokenizers ship them: Jinja, from messages to one prompt text.

The environment is a sandbox in which nothing given can be changed, with the settings, filters
and functions that published templates expect. Left out: marking which characters the assistant
wrote (``{% generation %}`` is only passed over), documents for retrieval.
Source: the chat-template pages of the transformers documentation; parity is tested against it.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace

from plimsoll.serving.http.errors import invalid
from plimsoll.spec.errors import SpecError

__all__ = ["ChatTemplate", "read_template"]

# What careless templates raise on messages they did not think of.
RENDER_ERRORS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


class GenerationBlock(Extension):
    """``{% generation %}…{% endgeneration %}`` renders what is inside."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class PlainNamespace(Namespace):
    """Jinja's ``namespace()`` without names that reach into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: B902
        for name in dict(*args[1:], **kwargs):
            _refuse_private(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        Namespace.__setitem__(self, name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError("names with a leading underscore cannot be stored")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationBlock, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "namespace": PlainNamespace,
    }
    return environment


class ChatTemplate:
    """Compiled templates of one tokenizer.

    ``sources`` are by name; "tool_use", if there, is taken when tools are given, else "default".
    ``special_tokens`` (``bos_token`` and the like) are variables of every rendering.
    """

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        environment = _environment()
        try:
            self._templates = {name: environment.from_string(t) for name, t in sources.items()}
        except TemplateSyntaxError as error:
            raise SpecError(f"chat template, line {error.lineno}: {error.message}") from None
        if "default" not in self._templates:
            raise SpecError(f"chat templates {sorted(sources)}: none is named default")
        self._special_tokens = dict(special_tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text.

        Raises:
            ApiError: 400 when the template refuses these messages or stumbles over them.
        """
        name = "tool_use" if tools and "tool_use" in self._templates else "default"
        values = {
            **self._special_tokens,
            **(variables or {}),
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._templates[name].render(values)
        except TemplateError as error:
            said = (error.message or type(error).__name__)[:300]
            raise invalid(f"The chat template refuses this: {said}", param="messages") from error
        except RENDER_ERRORS as error:
            raise invalid(
                "The model's chat template cannot render these messages "
                f"({type(error).__name__}); check roles, contents and tools.",
                param="messages",
            ) from error


def read_template(folder: Path) -> ChatTemplate | None:
    """The chat templates beside a tokenizer, None if it has none.

    ``chat_template.jinja`` and ``additional_chat_templates/*.jinja`` go before the
    ``chat_template`` of ``tokenizer_config.json``, a text or a list of ``{name, template}``.
    """
    config: dict[str, Any] = {}
    file = folder / "tokenizer_config.json"
    if file.exists():
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SpecError(f"{file}: not JSON ({error})") from None
    found = config.get("chat_template")
    sources: dict[str, str] = {}
    if isinstance(found, str):
        sources["default"] = found
    elif isinstance(found, list):
        sources = {entry["name"]: entry["template"] for entry in found}
    if (folder / "chat_template.jinja").exists():
        text = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        sources["default"] = text
        for other in sorted((folder / "additional_chat_templates").glob("*.jinja")):
            sources[other.stem] = other.read_text(encoding="utf-8")
    return ChatTemplate(sources, _special_tokens(config)) if sources else None


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """``*_token`` entries: a text, or an object with the text under ``content``."""
    tokens = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return tokens
