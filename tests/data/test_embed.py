"""Encoders: length one, no memory of neighbors, and a checkpoint's."""

import json

import numpy as np
import pytest
import torch

from plimsoll.data.embed import CheckpointEncoder, HashedEncoder, words_of
from plimsoll.evals.real_runs import VOCABULARY, random_llama
from plimsoll.spec.errors import SpecError

TEXTS = ["the cat sat on the mat", "a cat on a mat sat", "stocks fell on monday", ""]


def test_vectors_have_length_one_and_do_not_depend_on_what_else_is_encoded():
    encoder = HashedEncoder.fitted(TEXTS, 128)
    together = encoder.encode(TEXTS)
    assert together.dtype == np.float32 and together.shape == (4, 128)
    assert np.allclose(np.linalg.norm(together[:3], axis=1), 1, atol=1e-6)
    assert (together[3] == 0).all()
    again = HashedEncoder.fitted(TEXTS, 128)
    for text, row in zip(TEXTS[::-1], together[::-1], strict=True):
        assert again.encode([text])[0].tobytes() == row.tobytes()


def test_inner_products_stand_near_the_cosine_of_counted_words():
    encoder = HashedEncoder(512, pairs=False)
    one, other = encoder.encode(["a b c d", "c d e f"])
    assert float(one @ other) == pytest.approx(0.5, abs=0.12)
    alike, unlike = encoder.encode([TEXTS[1], TEXTS[2]]) @ encoder.encode([TEXTS[0]])[0]
    assert alike > unlike + 0.2


def test_rare_words_weigh_more():
    texts = [f"the n{n}" for n in range(50)]
    plain = HashedEncoder(256, pairs=False).encode(["the n1", "the n2"])
    weighed = HashedEncoder.fitted(texts, 256, pairs=False).encode(["the n1", "the n2"])
    assert weighed[0] @ weighed[1] < plain[0] @ plain[1] - 0.2


def test_settings_tell_encoders_apart():
    found = [
        HashedEncoder(64),
        HashedEncoder(64, seed=1),
        HashedEncoder(64, pairs=False),
        HashedEncoder(128),
        HashedEncoder.fitted(TEXTS, 64),
    ]
    assert len({json.dumps(one.settings) for one in found}) == 5
    assert HashedEncoder.fitted(TEXTS, 64).settings == found[-1].settings
    wide = HashedEncoder(1024).encode(["a b"])  # more bits than one digest has
    assert wide.shape == (1, 1024) and not np.array_equal(wide[0, :512], wide[0, 512:])
    with pytest.raises(SpecError, match="an embedding of 12 numbers"):
        HashedEncoder(12)


def test_words_are_lower_case_without_signs():
    assert words_of("It's 3.5, Élan!") == ["it", "s", "3", "5", "élan"]


def test_a_checkpoint_embeds_as_the_mean_of_its_last_hidden_states(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = random_llama(tmp_path / "lm")
    words = {f"w{n}": n for n in range(VOCABULARY - 1)} | {"[UNK]": VOCABULARY - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    encoder = CheckpointEncoder(folder)
    found = encoder.encode(["w1 w2 w3", "w1 w2 w4", "w1 w2 w3", ""])
    assert found.shape == (4, encoder.dim) == (4, 64)
    assert np.allclose(np.linalg.norm(found[:3], axis=1), 1, atol=1e-6) and not found[3].any()
    assert np.array_equal(found[0], found[2]) and not np.array_equal(found[0], found[1])

    from plimsoll.models.context import FullContext
    from plimsoll.models.loading import load

    context = FullContext(1, 3)
    with torch.inference_mode():
        hidden = load(folder)(torch.tensor([1, 2, 3]), context.positions(), context)
    mean = hidden.mean(dim=0).numpy()
    assert np.allclose(found[0], mean / np.linalg.norm(mean), atol=1e-5)
    cut = CheckpointEncoder(folder, longest=2)
    assert np.array_equal(*cut.encode(["w1 w2 w3", "w1 w2 w4"]))
    assert cut.settings != encoder.settings == CheckpointEncoder(folder).settings


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    folder = random_llama(tmp_path / "lm")
    with pytest.raises(SpecError, match=r"no tokenizer\.json"):
        CheckpointEncoder(folder)
