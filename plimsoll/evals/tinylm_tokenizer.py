"""The small model's tokenizer: byte-level pair encoding with 512 entries, learned in-process.

256 bytes, one special token and 255 merges, each the most frequent pair of its moment; among
equally frequent pairs the one of the lowest ids, so the result depends on the words and their
counts alone, not on their order or on threads. All byte strings can be written. The one special
token stands between documents: it ends one and starts the next. The folder reads as a Hugging
Face tokenizer. Left out: normalization (the corpus does it), special tokens for chat (turns are
plain words, which the model has at least seen).
Source: doi:10.18653/v1/P16-1162; trained by the ``tokenizers`` library.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from plimsoll.spec.io import write_text

__all__ = ["CHAT_TEMPLATE", "END", "save_tokenizer", "token_stream", "train_tokenizer"]

END = "<|end|>"
"""Ends a document and starts the next; its id is 0."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

_NUM_ENTRIES = 512


def train_tokenizer(documents: Sequence[str]) -> Tokenizer:
    """Learn the merges from documents; their order does not matter."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=_NUM_ENTRIES,
            special_tokens=[AddedToken(END, special=True, normalized=False)],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return tokenizer


def token_stream(tokenizer: Tokenizer, documents: Sequence[str]) -> np.ndarray:
    """[N] ids of all documents one after the other, ``END`` around each."""
    end = tokenizer.token_to_id(END)
    ids = [end]
    for encoding in tokenizer.encode_batch(list(documents), add_special_tokens=False):
        ids += encoding.ids
        ids.append(end)
    return np.asarray(ids, dtype=np.int64)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, max_positions: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "model_max_length": max_positions,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    write_text(json.dumps(config, indent=2) + "\n", folder / "tokenizer_config.json")
