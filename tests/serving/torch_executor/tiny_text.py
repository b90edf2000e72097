"""A tokenizer and a chat template for the small model, and its engine as the server has it."""

import json
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from plimsoll.serving.executors.torch.live_run import LiveRun
from plimsoll.serving.executors.torch.sampling.grammar import Grammars
from plimsoll.serving.executors.torch.text_engine import TextEngine
from tests.serving.torch_executor.tiny_llama import CONTEXT, VOCABULARY

END = VOCABULARY - 1
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}assistant:"
)


def write_tokenizer(folder: Path) -> None:
    """Bytes as tokens, a few spare ones, and an end."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(f"<spare{i}>" for i in range(VOCABULARY - len(letters) - 1)), "<end>"]
    tokenizer = Tokenizer(models.BPE(vocab={n: i for i, n in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<end>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((folder / "config.json").read_text())
    config["eos_token_id"] = VOCABULARY - 1
    (folder / "config.json").write_text(json.dumps(config))


def text_engine(
    run: LiveRun, folder: Path, grammars: Callable[[Tokenizer, tuple[int, ...]], Grammars]
) -> TextEngine:
    """The run as an engine; ``grammars`` makes what compiles its schemas."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return TextEngine(
        run,
        model_name="tiny",
        max_model_len=CONTEXT,
        vocab_size=VOCABULARY,
        tokenizer=tokenizer,
        grammars=grammars(tokenizer, (END,)),
    )
