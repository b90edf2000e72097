"""Text in pieces is the text at once, cut at the first stop string."""

import re

from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from plimsoll.serving.executors.torch.sampling.detokenize import TextStream

VOCAB = 420
tokens_at_random = st.lists(st.integers(0, VOCAB - 1), max_size=60)
text_at_random = st.text(alphabet="ab😀é日\ufffd stop\n", max_size=40)


def streamed(stream: TextStream, tokens: list[int]) -> tuple[list[str], bool]:
    pieces = []
    for token in tokens:
        text, stopped = stream.push(token)
        pieces.append(text)
        if stopped:
            return pieces, True
    return [*pieces, stream.finish()], False


def byte_tokens(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """One token a byte, by the byte-level alphabet's order of code points."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    names = {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    return [tokenizer.token_to_id(names[byte]) for byte in data]


@given(tokens=tokens_at_random)
@example(tokens=[0, 0, 5, 0])
def test_any_tokens_equal_the_full_decode(tokenizer: Tokenizer, tokens: list[int]) -> None:
    pieces, _ = streamed(TextStream(tokenizer), tokens)
    assert "".join(pieces) == tokenizer.decode(tokens)


@given(data=st.binary(max_size=80))
@example(data=b"\x80" * 60)
@example(data=b"\xf0\x9f\x98" * 20)
@example(data=b"\xe2\x82" * 20 + "€".encode())
@example(data=b"a\xf0\x9f\xf0\x9f\x98\x80b\xed\xa0\x80")
def test_any_bytes_equal_the_full_decode(tokenizer: Tokenizer, data: bytes) -> None:
    pieces, _ = streamed(TextStream(tokenizer), byte_tokens(tokenizer, data))
    assert "".join(pieces) == data.decode(errors="replace")


@given(text=st.text(max_size=30))
def test_no_half_character_is_given(tokenizer: Tokenizer, text: str) -> None:
    """Whole characters come as soon as their last byte does."""
    stream = TextStream(tokenizer)
    data = text.encode()
    given_ = ""
    for place, token in enumerate(byte_tokens(tokenizer, data)):
        given_ += stream.push(token)[0]
        whole = data[: place + 1].decode(errors="ignore")
        assert text.startswith(given_)
        assert given_ == whole or "\ufffd" in whole[-3:]


def test_a_broken_run_does_not_pile_up(tokenizer: Tokenizer) -> None:
    """Work for a token stays bounded: the window holds the last few tokens only."""

    class Counting:
        longest = 0

        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            self.longest = max(self.longest, len(ids))
            return tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    counting = Counting()
    (broken,) = byte_tokens(tokenizer, b"\x80")
    pieces, _ = streamed(TextStream(counting), [broken] * 500)  # type: ignore[arg-type]
    assert "".join(pieces) == "\ufffd" * 500
    assert counting.longest < 20


def first_stop(text: str, stop: tuple[str, ...]) -> str | None:
    """Text before the stop string that is complete first, read a character at a time."""
    for end in range(1, len(text) + 1):
        found = [s for s in stop if s and text[:end].endswith(s)]
        if found:
            return text[: end - max(map(len, found))]
    return None


@given(
    text=text_at_random,
    stop=st.lists(st.text(alphabet="ab😀 stop\n", max_size=4), max_size=3).map(tuple),
    in_bytes=st.booleans(),
)
@example(text="xabcx", stop=("b", "abc"), in_bytes=False)
@example(text="aaab", stop=("aab",), in_bytes=True)
@example(text="st", stop=("stop",), in_bytes=True)
def test_stop_strings_end_the_text(
    tokenizer: Tokenizer, text: str, stop: tuple[str, ...], in_bytes: bool
) -> None:
    data = text.encode()
    tokens = byte_tokens(tokenizer, data) if in_bytes else tokenizer.encode(text).ids
    pieces, _ = streamed(TextStream(tokenizer, stop), tokens)
    wanted = first_stop(text, stop)
    assert "".join(pieces) == (text if wanted is None else wanted)


def test_the_first_to_complete_counts_inside_a_token_too(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" the").ids
    assert len(ids) == 1
    for stop, wanted in {("the", "h"): " t", ("h", " th"): "", ("e", "the"): " "}.items():
        assert TextStream(tokenizer, stop).push(ids[0]) == (wanted, True)


def test_only_what_may_begin_a_stop_string_is_held(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, ("stop!", "<end>"))
    given_ = [stream.push(token)[0] for token in byte_tokens(tokenizer, b"a sto b st")]
    assert given_ == ["a", " ", "", "", "", "sto ", "b", " ", "", ""]
    assert stream.finish() == "st"


def test_stopping_is_told_once_and_nothing_follows(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, ("END",))
    results = [stream.push(token) for token in byte_tokens(tokenizer, b"xEND")]
    assert results == [("x", False), ("", False), ("", False), ("", True)]
    assert stream.finish() == ""


def test_minimum_length_passes_over_early_stop_strings(tokenizer: Tokenizer) -> None:
    tokens = byte_tokens(tokenizer, b"a.b.c.")
    for min_tokens, wanted in {0: "a", 1: "a", 2: "a.b", 4: "a.b.c", 6: "a.b.c."}.items():
        pieces, _ = streamed(TextStream(tokenizer, (".",), min_tokens=min_tokens), tokens)
        assert "".join(pieces) == wanted


def test_special_tokens_give_no_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the cat").ids
    pieces, _ = streamed(TextStream(tokenizer), [1, *ids, 0])
    assert re.fullmatch("the cat", "".join(pieces))
