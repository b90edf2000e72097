"""A tokenizer of bytes and a few chat templates, made for these tests."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from plimsoll.serving.http.templates import ChatTemplate
from plimsoll.serving.http.tokens import TextTools

SPECIAL = ("<s>", "</s>", "<|turn|>", "<|end|>")

PLAIN = """
{%- for message in messages -%}
    <|turn|>{{ message.role }}
{{ message.content }}<|end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|turn|>assistant
{% endif -%}
"""

WITH_TOOLS = """
{%- set system = namespace(text="") -%}
{%- if messages[0].role == "system" -%}
    {%- set system.text = messages[0].content | trim -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{{ bos_token }}<|turn|>system
{{ system.text or "Be brief." }}
{%- if tools %}

Tools:
    {%- for tool in tools %}
{{ tool | tojson }}
    {%- endfor %}
Call one with <tool_call>{"name": ..., "arguments": ...}</tool_call>.
{%- endif %}<|end|>
{% for message in messages %}
<|turn|>{{ message["role"] }}
    {%- if message.tool_calls is defined and message.tool_calls %}
        {%- for call in message.tool_calls %}

{%- set said = {"name": call.function.name, "arguments": call.function.arguments} %}
<tool_call>{{ said | tojson }}</tool_call>
        {%- endfor %}
    {%- else %}

{{ message.content }}
    {%- endif %}<|end|>
{% endfor %}
{% if add_generation_prompt %}<|turn|>assistant
{% endif %}
"""

ALTERNATING = """
{{- bos_token }}
{%- for message in messages %}
    {%- if (message.role == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("Roles must alternate, beginning with the user; café") }}
    {%- endif %}
    {%- if message.role == "user" %}
        {{- "[ASK] " + message.content.strip() + " [/ASK]" }}
    {%- else %}
        {%- generation %}{{ " " + message.content + eos_token }}{%- endgeneration %}
    {%- endif %}
{%- endfor %}
"""

DATED = """
Today is {{ strftime_now("%Y") }}.
{% for message in messages %}
    {% if loop.index > 3 %}{% break %}{% endif %}
    {% if message.role == "tool" %}{% continue %}{% endif %}
{{ message.role | upper }}: {{ message.content | default("", true) | trim }}
{% endfor %}
{{ tools | tojson(indent=2) if tools else "no tools" }}
{% if thinking is defined and thinking %}<think>{% endif %}
"""

TEMPLATES = {
    "plain": PLAIN,
    "with_tools": WITH_TOOLS,
    "alternating": ALTERNATING,
    "dated": DATED,
}


def byte_tokenizer() -> Tokenizer:
    """One token a byte, and the special ones after them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return tokenizer


def text_tools(template: str = WITH_TOOLS) -> TextTools:
    """The tokenizer with one template."""
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return TextTools(byte_tokenizer(), ChatTemplate({"default": template}, special))
