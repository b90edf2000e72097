"""Text to tokens and back; single tokens that are part of a character."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from plimsoll.serving.http.errors import ApiError
from plimsoll.serving.http.tokens import TextTools
from plimsoll.spec.errors import SpecError, UnsupportedError
from tests.serving.http.small_text import PLAIN, byte_tokenizer, text_tools


@given(st.text())
def test_bytes_of_tokens_are_the_bytes_of_the_text(text: str) -> None:
    tools = text_tools()
    tokens = tools.encode(text)
    assert tools.decode(tokens) == text
    assert b"".join(tools.piece(token)[1] for token in tokens) == text.encode()


def test_special_tokens_are_single_and_shown() -> None:
    tools = text_tools()
    (token,) = tools.encode("<|end|>")
    assert tools.piece(token) == ("<|end|>", b"<|end|>")
    assert tools.piece(10**6) == ("", b"")


def test_byte_pieces() -> None:
    vocab = {"<unk>": 0, "<0xC3>": 1, "<0xA9>": 2, "a": 3}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.ByteFallback()
    tools = TextTools(tokenizer)
    assert [tools.piece(i)[1] for i in (1, 2, 3)] == [b"\xc3", b"\xa9", b"a"]


def test_reading_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no tokenizer.json"):
        TextTools.read(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SpecError, match=r"tokenizer\.json"):
        TextTools.read(tmp_path)
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    asked = {"tools": None, "add_generation_prompt": True, "variables": None}
    with pytest.raises(ApiError, match="no chat template"):
        TextTools.read(tmp_path).chat_prompt([], **asked)
    config = {"chat_template": PLAIN}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tools = TextTools.read(tmp_path)
    message = {"role": "user", "content": "hi"}
    prompt = tools.chat_prompt([message], **asked)
    assert tools.decode(prompt) == "<|turn|>user\nhi<|end|>\n<|turn|>assistant\n"
