"""The small model: equal weights each time, a folder that others read, a key that tells."""
# ruff: noqa: E402

import json
import logging
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from plimsoll.api.tinylm import build_tiny_lm
from plimsoll.evals import tinylm
from plimsoll.evals.tinylm_corpus import Corpus, make_corpus, normalized
from plimsoll.evals.tinylm_train import pinned, split
from plimsoll.models.context import FullContext
from plimsoll.models.loading import load
from plimsoll.spec.errors import SpecError, UnsupportedError
from tests.architecture.source_tree import ROOT, modules
from tests.command_line import plimsoll

STEPS = 3


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    from pydoc_data.topics import topics

    return make_corpus([normalized(topics[name]) for name in sorted(topics)])


@pytest.fixture(scope="module")
def folder(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three steps on a part of the corpus, whose cache tests may change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tinylm, "read_corpus", lambda: corpus)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return tinylm.tiny_lm(steps=STEPS)


@pytest.fixture
def cache(folder: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tinylm, "read_corpus", lambda: corpus)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parents[2]))
    return folder


def test_the_cache_is_used_and_a_damaged_model_trained_again(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int, loss: float) -> None:
        assert loss > 0
        told.append((done, total))

    before = tinylm.read_report(cache)
    assert tinylm.tiny_lm(steps=STEPS, progress=progress) == cache and not told
    weights = (cache / "model.safetensors").read_bytes()
    (cache / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\1\0")
    with pytest.raises(SpecError, match="model.safetensors not as written; run `plimsoll tinylm"):
        tinylm.existing_tiny_lm(steps=STEPS)
    with caplog.at_level(logging.WARNING):
        assert tinylm.tiny_lm(steps=STEPS, progress=progress) == cache
    assert told == [(1, 3), (2, 3), (3, 3)] and "made again" in caplog.text
    assert tinylm.read_report(cache).weights_sha256 == before.weights_sha256, "trained twice"
    assert (cache / "model.safetensors").read_bytes() == weights


def test_a_model_of_another_origin_is_not_taken(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whole, but under the name of something else, as after a careless copy."""
    wrong = cache.parent / tinylm._origin(tinylm.read_corpus(), 2, STEPS).folder().name
    shutil.copytree(cache, wrong)
    with pytest.raises(SpecError, match="made with another seed"):
        tinylm.existing_tiny_lm(2, steps=STEPS)
    with caplog.at_level(logging.WARNING):
        assert tinylm.tiny_lm(2, steps=STEPS) == wrong
    assert "made with another seed; it is made again" in caplog.text
    assert tinylm.read_report(wrong).seed == 2


def test_another_seed_is_another_model(cache: Path) -> None:
    other = tinylm.tiny_lm(1, steps=STEPS)
    assert other != cache
    assert tinylm.read_report(other).weights_sha256 != tinylm.read_report(cache).weights_sha256


def test_the_report_adds_up(cache: Path, corpus: Corpus) -> None:
    report = tinylm.read_report(cache)
    assert report.corpus_sha256 == corpus.sha256 and report.code_sha256 == tinylm.code_sha256()
    assert report.heldout_perplexity == pytest.approx(torch.tensor(report.heldout_loss).exp())
    assert report.num_parameters == 935_520
    assert (report.steps, report.threads, report.num_heldout_tokens) == (STEPS, 1, 160 * 128)
    config = json.loads((cache / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"] and config["tie_word_embeddings"]
    assert config["max_position_embeddings"] == report.max_positions == 2048


def test_transformers_reads_the_same_model(cache: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(cache)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(cache)
    ids = tokenizer(
        "If the file does not exist, an error is raised.", return_tensors="pt"
    ).input_ids
    assert tokenizer.decode(ids[0]) == "If the file does not exist, an error is raised."
    ours = load(cache)
    context = FullContext(1, ids.shape[1])
    with torch.no_grad():
        logits = ours.logits(ours(ids[0], context.positions(), context))
        torch.testing.assert_close(logits, theirs(ids).logits[0], atol=1e-4, rtol=0)
    turns = [
        {"role": "user", "content": "What is a list?"},
        {"role": "assistant", "content": "A sequence."},
        {"role": "user", "content": "And a set?"},
    ]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<|end|>User: What is a list? Assistant: A sequence.<|end|>User: And a set? Assistant:"
    )


def test_torch_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), pinned(1):
        assert torch.get_num_threads() == 1 and torch.are_deterministic_algorithms_enabled()
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_nothing_held_out_is_learned() -> None:
    stream = torch.arange(160 * 129 + 1000).numpy()
    learned, heldout = split(stream)
    assert learned.shape == (7, 129) and heldout.shape == (160, 129)
    assert learned.max() < heldout.min() and heldout.max() == len(stream) - 1
    assert torch.equal(learned[1:, 0], learned[:-1, -1]), "every token is a target but the first"


def test_the_code_hash_covers_what_the_model_imports() -> None:
    """Changed attention must give another model; a changed docstring need not."""
    named = {f"plimsoll.{name[:-3].replace('/', '.')}" for name in tinylm.SOURCES}
    by_name = {module.name: module for module in modules()}
    for name in named:
        for found in by_name[name].imports():
            for part in (found.name, found.owner):
                if part in by_name and part.startswith(("plimsoll.models.", "plimsoll.evals.")):
                    assert part in named or part == "plimsoll.models.loading", (name, part)
    assert all((ROOT / "plimsoll" / name).is_file() for name in tinylm.SOURCES)


def test_missing_torch_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinylm, "_LIBRARIES", ("a-library-that-nobody-has",))
    with pytest.raises(UnsupportedError, match=r"needs a-library.*install plimsoll\[torch\]"):
        tinylm.code_sha256()


def test_wrong_numbers_are_named(cache: Path) -> None:
    with pytest.raises(SpecError, match="seed -1"):
        tinylm.tiny_lm(-1)
    with pytest.raises(SpecError, match="steps 0"):
        tinylm.tiny_lm(steps=0)


def test_the_command_line_says_where_and_how_good(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = plimsoll("tinylm", "report", "--seed", "7")
    assert missing.code == 2 and "run `plimsoll tinylm build --seed 7`" in missing.err
    keep = tinylm.tiny_lm
    monkeypatch.setattr("plimsoll.api.tinylm.tiny_lm", lambda s, **k: keep(s, steps=STEPS, **k))
    done = plimsoll("tinylm", "build", "--json")
    assert done.code == 0 and done.err == ""
    data = json.loads(done.out)
    assert data["folder"] == str(cache) and not data["trained"]
    text = plimsoll("tinylm", "build", "--seed", "3").out
    assert "Trained a small Llama" in text and "perplexity" in text
    assert "next:  plimsoll tinylm report --seed 3" in text


@pytest.mark.slow
def test_the_whole_training_predicts(capsys: pytest.CaptureFixture[str]) -> None:
    """In the user's own cache, which the demonstrations share."""
    made = build_tiny_lm().made
    with capsys.disabled():
        print(f"\nperplexity {made.heldout_perplexity:.1f}, {made.training_s} s (promised: 180 s)")
    assert made.heldout_perplexity < 60
