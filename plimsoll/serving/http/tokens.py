"""Text to tokens and back for the server, from the tokenizer files of a model folder.

Encoding and decoding are the ``tokenizers`` library's. A single token of a byte-level vocabulary
may be half a character: its bytes are read from the alphabet that byte-level BPE writes bytes
in, or from ``<0x41>`` pieces. Left out: slow tokenizers without a tokenizer.json.
Source: the byte alphabet of GPT-2's tokenizer, doi:10.18653/v1/P16-1162 for the merges.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plimsoll.serving.http.errors import invalid
from plimsoll.serving.http.templates import ChatTemplate, read_template
from plimsoll.spec.errors import SpecError, UnsupportedError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["TextTools"]

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@functools.cache
def _byte_of_letter() -> dict[str, int]:
    """Letter to byte: printable Latin-1 stands for itself, the rest follows from U+0100 on."""
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(itself)]
    table = {chr(byte): byte for byte in itself}
    return table | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class TextTools:
    """A tokenizer and its chat template, as the server uses them; safe to call from threads."""

    def __init__(self, tokenizer: "Tokenizer", template: ChatTemplate | None = None) -> None:
        self._tokenizer = tokenizer
        self.template = template

    @classmethod
    def read(cls, folder: Path) -> "TextTools":
        """The tokenizer of a model folder.

        Raises:
            UnsupportedError: the folder has no tokenizer.json.
            SpecError: it cannot be read.
        """
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.exists():
            raise UnsupportedError(f"{folder} has no tokenizer.json; convert the tokenizer first")
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise SpecError(f"{file}: {error}") from None
        return cls(tokenizer, read_template(folder))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids; rendered chats bring their special tokens along, plain prompts do not."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left in."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text

    def piece(self, token: int) -> tuple[str, bytes]:
        """One token as text (replacement characters where it is not a whole one) and as bytes."""
        written = self._tokenizer.id_to_token(token)
        if written is None:
            return "", b""
        if match := BYTE_PIECE.fullmatch(written):
            raw = bytes([int(match[1], 16)])
            return raw.decode("utf-8", "replace"), raw
        text = self.decode([token])
        if "\ufffd" not in text:
            return text, text.encode()
        letters = _byte_of_letter()
        if all(letter in letters for letter in written):
            raw = bytes(letters[letter] for letter in written)
            return raw.decode("utf-8", "replace"), raw
        return text, text.encode()

    def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any] | None,
    ) -> list[int]:
        """Token ids of a rendered chat.

        Raises:
            ApiError: 400, there is no template or it refuses these messages.
        """
        if self.template is None:
            raise invalid("This model's tokenizer has no chat template; use /v1/completions.")
        text = self.template.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            variables=variables,
        )
        if not _is_unicode(text):  # JSON can spell half of a surrogate pair
            raise invalid("The messages hold half of a surrogate pair.", param="messages")
        return self.encode(text, add_special_tokens=False)
