"""Learning rate and batch for a run; with a sweep, by a law refitted to it and judged on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plimsoll.api.commands import command
from plimsoll.api.laws_sweep import (
    SweepJudged,
    cost_table,
    judge_sweep,
    law_table,
    mean_cost,
    shape_table,
    sweep_data,
    sweep_notes,
)
from plimsoll.laws.hyper import STEP_LAW, StepLaw, Suggestion, suggest
from plimsoll.laws.table import LossTable
from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.wording import short_count_text
from plimsoll.spec.errors import SpecError
from plimsoll.spec.origin import Number, Origin

__all__ = ["HyperAnswer", "hyper"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperAnswer:
    """``advice`` None if only a sweep was asked about; ``rival``: what the published law says
    where one was refitted."""

    params: float
    tokens: float
    seq_len: int
    law: StepLaw
    advice: Suggestion | None
    rival: Suggestion | None
    judged: SweepJudged | None
    asked: tuple[str, ...] = ()

    def report(self) -> Report:
        """See ``Answer``."""
        advice, judged = self.advice, self.judged
        tables = [] if advice is None else [self._train(advice)]
        notes = [] if advice is None else _outside_notes(advice)
        if judged is not None:
            tables += [law_table(judged.found), shape_table(judged), cost_table(judged)]
            notes += sweep_notes(judged)
        return Report(
            title=_title(advice, judged),
            subtitle=self._subtitle(),
            command=command(*(self.asked or ("laws", "hyper"))),
            key_numbers=() if advice is None else _keys(advice),
            tables=tuple(tables),
            assumptions=(
                "warm-up of 2,000 steps, cosine to a fixed 1e-5, AdamW; parameters without "
                "embeddings (of experts: all of them)",
            )
            if judged is None
            else ("the schedule of the sweep; one that decays further has another optimum",),
            notes=tuple(notes),
            next_command=self._next(),
        )

    def _subtitle(self) -> str:
        source = self.law.source if self.judged is None else f"refitted to {self.law.source}"
        if self.advice is None:
            return source
        return (
            f"{short_count_text(self.params)} parameters, {short_count_text(self.tokens)} tokens, "
            f"sequences of {self.seq_len:,}; {source}"
        )

    def _next(self) -> str:
        if self.advice is None:
            words = [*self.asked, "--params", "7B", "--tokens", "1.4T"]
            return command(*(words if self.asked else ("laws", "hyper", *words)))
        return command(
            "laws",
            "predict",
            "--params",
            f"{self.params:.3g}",
            "--tokens",
            f"{self.tokens:.3g}",
        )

    def _train(self, advice: Suggestion) -> Table:
        rows = [
            ("peak learning rate", f"{advice.lr:.3g}", _range(advice.lr_range, "{:.3g}".format)),
            (
                "batch",
                f"{short_count_text(advice.batch_tokens)} tokens",
                _range(advice.batch_range, short_count_text),
            ),
            ("", f"{advice.batch_sequences:,} sequences", _sequences(advice, self.seq_len)),
            ("steps", f"{advice.steps:,}", ""),
        ]
        if self.rival is not None:
            rival = self.rival
            rows.append(
                (
                    "published law instead",
                    f"{rival.lr:.3g}",
                    f"{short_count_text(rival.batch_tokens)} tokens a step",
                )
            )
        return Table(
            title="What to train with",
            columns=("", "value", "as good"),
            rows=tuple(rows),
            notes=(f"as good: both together within {100 * advice.plateau:g} % of the least loss",)
            if advice.lr_range
            else ("how wide the plateau is, is not known: no cell of the sweep is convex",),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        judged = self.judged
        return {
            "format_version": 1,
            "params": self.params or None,
            "tokens": self.tokens or None,
            "seq_len_tokens": self.seq_len,
            "law": _law_data(self.law),
            "advice": None if self.advice is None else _advice_data(self.advice),
            "published_advice": None if self.rival is None else _advice_data(self.rival),
            "sweep": None if judged is None else sweep_data(judged),
        }


def _title(advice: Suggestion | None, judged: SweepJudged | None) -> str:
    if advice is not None:
        return (
            f"Learning rate {advice.lr:.3g}, batch {short_count_text(advice.batch_tokens)} tokens "
            f"({advice.batch_sequences:,} sequences)"
        )
    assert judged is not None
    return (
        f"The refitted law costs {100 * mean_cost(judged.fitted):.2f} % of the loss on its sweep, "
        f"the published one {100 * mean_cost(judged.published):.2f} %"
    )


def _keys(advice: Suggestion) -> tuple[KeyNumber, ...]:
    origin = Origin.MODELED if advice.in_box else Origin.EXTRAPOLATED
    return (
        KeyNumber(
            name="Learning rate",
            number=Number(value=advice.lr, unit="", origin=origin),
            note="peak",
        ),
        KeyNumber(
            name="Batch",
            number=Number(value=advice.batch_tokens, unit="tokens", origin=origin),
            note=f"the law says {advice.best_batch_tokens:,.0f}",
        ),
    )


def _outside_notes(advice: Suggestion) -> list[str]:
    if advice.in_box:
        return ["inside the range of sizes and tokens that the law was fitted on"]
    parts = [
        f"{name} {factor:.3g} times above" if factor > 1 else f"{name} {1 / factor:.3g} times below"
        for name, factor in advice.outside.items()
    ]
    return [f"extrapolated: {' and '.join(parts)} the law's range; sweep a smaller run to check"]


def _range(limits: tuple[float, float] | None, show: Callable[[float], str]) -> str:
    return "" if limits is None else f"{show(limits[0])} to {show(limits[1])}"


def _sequences(advice: Suggestion, seq_len: int) -> str:
    return _range(advice.batch_range, lambda tokens: f"{max(1, round(tokens / seq_len)):,}")


def _law_data(law: StepLaw) -> dict[str, Any]:
    return {
        "lr_factor": law.lr_factor,
        "lr_params": law.lr_params,
        "lr_tokens": law.lr_tokens,
        "batch_factor_tokens": law.batch_factor,
        "batch_tokens": law.batch_tokens,
        "params_box": list(law.params_box),
        "tokens_box": list(law.tokens_box),
        "source": law.source,
    }


def _advice_data(advice: Suggestion) -> dict[str, Any]:
    return {
        "lr": advice.lr,
        "batch_tokens": advice.batch_tokens,
        "batch_sequences": advice.batch_sequences,
        "best_batch_tokens": advice.best_batch_tokens,
        "steps": advice.steps,
        "lr_range": advice.lr_range and list(advice.lr_range),
        "batch_range_tokens": advice.batch_range and list(advice.batch_range),
        "plateau_fraction": advice.plateau,
        "in_box": advice.in_box,
        "outside": advice.outside,
    }


def hyper(
    params: float | None,
    tokens: float | None,
    *,
    seq_len: int = 4096,
    data_parallel: int = 1,
    micro_batch: int = 1,
    sweep: LossTable | None = None,
    seed: int = 0,
) -> HyperAnswer:
    """Learning rate and batch; by the published law, or by one refitted to ``sweep``.

    Raises:
        SpecError: counts that cannot be; neither a run nor a sweep.
        InfeasibleError: devices that take more than the plateau in a step, or a sweep that says
            nothing of sizes and tokens apart.
    """
    if (params is None) != (tokens is None):
        raise SpecError("give both --params and --tokens of the run, or neither")
    if params is None and sweep is None:
        raise SpecError("nothing to answer; give --params and --tokens of a run, or --sweep FILE")
    judged = None if sweep is None else judge_sweep(sweep, seed=seed)
    law = STEP_LAW if judged is None else judged.found.law

    def ask(by: StepLaw) -> Suggestion | None:
        if params is None or tokens is None:
            return None
        return suggest(
            params,
            tokens,
            seq_len=seq_len,
            data_parallel=data_parallel,
            micro_batch=micro_batch,
            law=by,
        )

    return HyperAnswer(
        params=params or 0.0,
        tokens=tokens or 0.0,
        seq_len=seq_len,
        law=law,
        advice=ask(law),
        rival=None if judged is None else ask(STEP_LAW),
        judged=judged,
    )
