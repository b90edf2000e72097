"""The verbs of ``tinylm``: train the small language model of demonstrations, say what it is."""

import math

import typer

from plimsoll.cli.options import Json, Quiet, Seed

__all__ = ["tinylm_app"]

tinylm_app = typer.Typer(
    help="A small model for trying things out, trained here.", no_args_is_help=True
)


@tinylm_app.command()
def build(seed: Seed = 0, quiet: Quiet = False, json: Json = False) -> None:
    """Train it on Python's own texts, or find it in the cache."""
    from plimsoll.api.tinylm import build_tiny_lm
    from plimsoll.cli.output import emit
    from plimsoll.cli.progress import progress_line

    with progress_line(quiet) as line:
        lowest = math.inf

        def show(done: int, total: int, loss: float) -> None:
            nonlocal lowest
            lowest = min(lowest, loss)
            line(done, total, f"loss {lowest:.2f}")

        answer = build_tiny_lm(seed=seed, progress=show)
    emit(answer, json=json, html=None)


@tinylm_app.command()
def report(seed: Seed = 0, json: Json = False) -> None:
    """Where it lies, how it was made, how well it predicts."""
    from plimsoll.api.tinylm import report_tiny_lm
    from plimsoll.cli.output import emit

    emit(report_tiny_lm(seed=seed), json=json, html=None)
