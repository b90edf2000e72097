"""A small byte-level tokenizer, trained here, with two special tokens (ids 0 and 1)."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS = (
    '{"name": "héllo wörld", "items": [1, 2, 3], "ok": true, "none": null} '
    "the cat sat on the mat; naïve 😀😀 日本語 \n\n stop STOP User: Assistant: "
)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([CORPUS] * 20, trainer)
    return made
