"""The small language model of demonstrations and tests: train it, say what it is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plimsoll.api.commands import command
from plimsoll.evals.tinylm import TinyLmReport, existing_tiny_lm, read_report, tiny_lm
from plimsoll.report.document import Report, Table
from plimsoll.report.wording import count_text, seconds_text
from plimsoll.spec.io import plain
from plimsoll.spec.origin import Origin

__all__ = ["TinyLmAnswer", "build_tiny_lm", "report_tiny_lm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyLmAnswer:
    """A model in its folder; ``trained`` when this call made it."""

    folder: Path
    made: TinyLmReport
    trained: bool

    def report(self) -> Report:
        """See ``Answer``."""
        r = self.made
        seed = ("--seed", str(r.seed)) if r.seed else ()
        did = "Trained a small Llama" if self.trained else "A small Llama, trained earlier"
        rows = (
            ("parameters", count_text(r.num_parameters)),
            ("trained on", f"{count_text(r.num_train_tokens)} tokens"),
            ("steps", f"{r.steps:,} in {seconds_text(r.training_s)}"),
            ("threads", f"{r.threads}"),
            ("held-out tokens", count_text(r.num_heldout_tokens)),
            ("held-out loss", f"{r.heldout_loss:.3f} nats/token"),
            ("held-out perplexity", f"{r.heldout_perplexity:.1f}"),
            ("held-out bits", f"{r.heldout_bits_per_byte:.2f} a byte"),
            ("vocabulary", f"{r.vocab_size:,}"),
            ("positions offered", f"{r.max_positions:,}"),
            ("weights, SHA-256", r.weights_sha256[:16]),
            ("corpus, SHA-256", r.corpus_sha256[:16]),
            ("code, SHA-256", r.code_sha256[:16]),
            ("Python", r.python_version),
            *r.libraries.items(),
        )
        return Report(
            title=f"{did}: perplexity {r.heldout_perplexity:.1f} on text it has not seen, "
            f"{seconds_text(r.training_s)} of training, in {self.folder}",
            subtitle=f"learned from the {r.num_documents:,} reference topics and docstrings of "
            f"Python {r.python_version}; {Origin.MEASURED.value}",
            command=command("tinylm", "build" if self.trained else "report", *seed),
            tables=(Table(title="The model", columns=("", "value"), rows=rows),),
            notes=r.notes,
            next_command="" if not self.trained else command("tinylm", "report", *seed),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "origin": Origin.MEASURED.value,
            "folder": str(self.folder),
            "trained": self.trained,
            "report": plain(self.made),
        }


def build_tiny_lm(
    *, seed: int = 0, progress: Callable[[int, int, float], None] | None = None
) -> TinyLmAnswer:
    """The model of a seed, trained if the cache does not hold it; see ``evals.tinylm``."""
    trained = False

    def tell(done: int, total: int, loss: float) -> None:
        nonlocal trained
        trained = True
        if progress is not None:
            progress(done, total, loss)

    folder = tiny_lm(seed, progress=tell)
    return TinyLmAnswer(folder=folder, made=read_report(folder), trained=trained)


def report_tiny_lm(*, seed: int = 0) -> TinyLmAnswer:
    """What the cache holds for a seed; nothing is trained.

    Raises:
        SpecError: it holds none.
    """
    folder = existing_tiny_lm(seed)
    return TinyLmAnswer(folder=folder, made=read_report(folder), trained=False)
