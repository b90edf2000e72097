"""The small model's corpus and tokenizer: the same text, the same merges, every byte."""
# ruff: noqa: E402

import random
import sysconfig
from pathlib import Path

import pytest

from plimsoll.evals.tinylm_corpus import docstrings, make_corpus, normalized, read_corpus
from plimsoll.spec.errors import UnsupportedError

pytest.importorskip("tokenizers")

from plimsoll.evals.tinylm_tokenizer import END, token_stream, train_tokenizer

LONG = "words of a docstring that is long enough to be kept, " * 3


@pytest.fixture(scope="module")
def documents() -> tuple[str, ...]:
    from pydoc_data.topics import topics

    return make_corpus([normalized(text) for text in topics.values()]).documents


def test_docstrings_come_in_sorted_path_order_without_tests(tmp_path: Path) -> None:
    for name in ("b.py", "a/z.py", "a/test/t.py", "site-packages/p.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""{name} {LONG}"""\ndef f():\n    "short"\n', encoding="utf-8")
    assert [text.split()[0] for text in docstrings(tmp_path)] == ["a/z.py", "b.py"]


def test_text_is_one_line_of_ascii() -> None:
    assert normalized("  a\n\tb\u00a0 na\u00efve \u2014\n") == "a b na?ve ?"


def test_the_order_is_fixed_and_no_document_comes_twice() -> None:
    texts = [f"document {i}" for i in range(50)]
    corpus = make_corpus([*texts, *texts[:9]])
    assert sorted(corpus.documents) == sorted(texts) and list(corpus.documents) != texts
    assert corpus == make_corpus(texts)
    assert corpus.sha256 != make_corpus(texts[1:]).sha256


def test_a_part_of_this_python_reads_the_same_again() -> None:
    part = Path(sysconfig.get_paths()["stdlib"]) / "asyncio"
    first = list(docstrings(part))
    assert list(docstrings(part)) == first
    assert len(first) > 100 and all(text == normalized(text) for text in first)


@pytest.mark.slow
def test_the_whole_corpus_reads_the_same_again() -> None:
    first = read_corpus()
    read_corpus.cache_clear()
    assert read_corpus() == first
    assert len(first.documents) > 1000 and sum(map(len, first.documents)) > 1e6


def test_a_python_without_sources_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(UnsupportedError, match="no Python sources"):
        read_corpus.__wrapped__()


def test_merges_depend_on_counts_alone(documents: tuple[str, ...]) -> None:
    mixed = list(documents)
    random.Random(1).shuffle(mixed)
    assert train_tokenizer(documents).to_str() == train_tokenizer(mixed).to_str()


def test_merges_are_those_of_the_plain_algorithm() -> None:
    """Most frequent pair first, ties to the lowest ids: counted here in the open."""
    text = "low lower lowest newer newest wider low low no now on won"
    tokenizer = train_tokenizer([text])
    ids = {token: i for token, i in tokenizer.get_vocab().items() if len(token) == 1}
    pieces = ["\u0120" + word for word in text.split()]
    pieces[0] = pieces[0][1:]
    words = [[ids[c] for c in piece] for piece in pieces]
    expected = len(ids) + 1
    while True:
        counts: dict[tuple[int, int], int] = {}
        for word in words:
            for pair in zip(word, word[1:], strict=False):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        for word in words:
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = [expected]
                at += 1
        expected += 1
    assert tokenizer.get_vocab_size() == expected
    assert tokenizer.encode(text).ids == [i for word in words for i in word]


def test_text_and_any_bytes_survive_the_tokenizer(documents: tuple[str, ...]) -> None:
    tokenizer = train_tokenizer(documents[:-5])
    assert tokenizer.get_vocab_size() == 512
    every_byte = "".join(map(chr, range(256))) + "\u20ac \U0001f600 \u4e2d\n\n  x"
    for text in (*documents[-5:], every_byte):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    alphabet = {token for token in tokenizer.get_vocab() if len(token) == 1}
    assert len(alphabet) == 256


def test_documents_end_in_the_special_token(documents: tuple[str, ...]) -> None:
    tokenizer = train_tokenizer(documents)
    end = tokenizer.token_to_id(END)
    stream = token_stream(tokenizer, ["one", "two words"])
    assert end == 0 and stream[0] == stream[-1] == end
    assert (stream == end).sum() == 3
    assert tokenizer.decode(stream.tolist(), skip_special_tokens=True) == "onetwo words"
