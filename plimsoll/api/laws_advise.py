"""One page of advice for a training budget: what to train, how, at what cost, and what would
change the answer."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from plimsoll.api.commands import command
from plimsoll.api.laws import law_data
from plimsoll.api.laws_budget import AllocateAnswer, allocate
from plimsoll.laws.hyper import Suggestion, suggest
from plimsoll.laws.predict import Prediction, predict
from plimsoll.laws.serving_price import TRAINING_MFU, ServingPoint, serving_point
from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.wording import flops_text, percent_text, ratio_text, short_count_text
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.hardware import Fleet
from plimsoll.spec.origin import Number, Origin

__all__ = ["AdviseAnswer", "Cost", "advise"]

_SEQ_LEN = 4096
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of training on the fleet at ``mfu``, and of serving. ``usd`` None: no price is known."""

    train_s: float
    train_usd: float | None
    devices: int
    mfu: float
    serving: ServingPoint | None
    usd_per_million: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdviseAnswer:
    """``others``: (what is changed, size, tokens, loss), or why there is no answer then."""

    split: AllocateAnswer
    at: Prediction
    hyper: Suggestion
    cost: Cost
    on: str
    others: tuple[tuple[str, str, str, str], ...]

    def report(self) -> Report:
        """See ``Answer``."""
        one, at, hyper, cost = self.split.found, self.at, self.hyper, self.cost
        size, tokens = short_count_text(one.params), short_count_text(one.tokens)
        known = np.isfinite(at.low)
        origin = Origin.EXTRAPOLATED if at.outside else Origin.MODELED
        lr_range = _range(hyper.lr_range, lambda v: f"{v:.3g}")
        batch_range = _range(hyper.batch_range, short_count_text)
        train = (
            ("parameters", size, "without embeddings, if the law counts them so"),
            ("tokens", tokens, f"{ratio_text(one.tokens_per_param)} a parameter"),
            ("peak learning rate", f"{hyper.lr:.3g}", lr_range),
            ("batch", f"{short_count_text(hyper.batch_tokens)} tokens", batch_range),
            ("steps", f"{hyper.steps:,}", f"sequences of {_SEQ_LEN:,} tokens"),
        )
        money = "no price known" if cost.train_usd is None else f"{cost.train_usd:,.0f} USD"
        spent = [
            (
                "training",
                f"{cost.train_s / _DAY_S:,.1f} days",
                money,
                f"{cost.devices:,} devices at {percent_text(cost.mfu)} of peak",
            )
        ]
        if cost.serving is not None:
            point = cost.serving
            price = (
                "no price known"
                if cost.usd_per_million is None
                else f"{cost.usd_per_million:.3g} USD a million tokens"
            )
            spent.append(
                (
                    "serving",
                    f"{point.tokens_per_device_s:,.0f} tokens/s a device",
                    price,
                    f"tp {point.tp}, batch {point.batch}, {point.token_s * 1e3:.0f} ms a token; "
                    f"limit: {point.limit}",
                )
            )
        notes = [at.warning] if at.warning else []
        if one.edge:
            notes.append(f"no minimum inside: the answer stands at {one.edge}")
        if hyper.outside:
            parts = [f"{name} {factor:.3g} times" for name, factor in hyper.outside.items()]
            notes.append(
                f"learning rate and batch are extrapolated ({' and '.join(parts)} the law's range)"
            )
        if not known:
            notes.append("the law was published without its points: the loss has no interval")
        kinds = parse_fleet(self.on).parts
        if len(kinds) > 1:
            notes.append(f"serving is priced on {kinds[0].device.name}, the first of the devices")
        epochs = self.split.epochs
        words = ["--flops", flops_text(one.flops), "--law", self.split.law.name]
        served = self.split.serve_tokens
        words += ["--serve", f"{short_count_text(served)}tokens"] if served else []
        if epochs is not None:
            notes += epochs.notes()
            words += ["--unique", f"{epochs.unique:.6g}"]
        repeats = f" ({epochs.best.epochs:.3g} epochs)" if epochs and epochs.repeated else ""
        return Report(
            title=f"Train {size} parameters on {tokens} tokens{repeats}",
            subtitle=f"{flops_text(one.flops)} FLOPs, {short_count_text(served)} tokens to serve, "
            f"{self.on}; {self.split.law.source}",
            command=command("laws", "advise", *words, "--on", self.on),
            key_numbers=(
                KeyNumber(
                    name="Loss",
                    number=Number(value=at.loss, unit=at.unit, origin=origin),
                    note=f"interval {at.low:.4g} to {at.high:.4g} with 90 %"
                    if known
                    else "interval not known",
                    digits=4,
                ),
            ),
            tables=(
                Table(
                    title="What to train",
                    columns=("", "value", "as good / note"),
                    rows=train,
                    notes=(
                        f"as good: within {percent_text(hyper.plateau)} of the least loss; "
                        f"{hyper.source}",
                    ),
                ),
                Table(
                    title="What it costs",
                    columns=("", "amount", "money", "setting"),
                    rows=tuple(spent),
                ),
                Table(
                    title="What would change the answer",
                    columns=("", "params", "tokens", "loss"),
                    rows=self.others,
                ),
            ),
            pictures=self.split.pictures(),
            num_on_terminal=0,
            assumptions=(
                "training costs 6 FLOPs a parameter and token, serving 2",
                f"training at {percent_text(TRAINING_MFU)} of the devices' peak in bf16",
                "warm-up of 2,000 steps, cosine to 1e-5",
            ),
            notes=tuple(notes),
            next_command=command(
                "laws", "allocate", *words, *(("--on", self.on) if served else ())
            ),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        one, at, hyper, cost = self.split.found, self.at, self.hyper, self.cost
        known = bool(np.isfinite(at.low))
        serving = cost.serving
        return {
            "format_version": 1,
            "law": law_data(self.split.law),
            "params": one.params,
            "tokens": one.tokens,
            "edge": one.edge,
            "loss": at.loss,
            "low": at.low if known else None,
            "high": at.high if known else None,
            "lr": hyper.lr,
            "batch_tokens": hyper.batch_tokens,
            "lr_range": hyper.lr_range and list(hyper.lr_range),
            "batch_range": hyper.batch_range and list(hyper.batch_range),
            "train_s": cost.train_s,
            "train_usd": cost.train_usd,
            "serving": None
            if serving is None
            else {
                "tp": serving.tp,
                "batch": serving.batch,
                "token_s": serving.token_s,
                "tokens_per_device_s": serving.tokens_per_device_s,
                "usd_per_million_tokens": cost.usd_per_million,
            },
            "epochs": None if self.split.epochs is None else self.split.epochs.data(),
            "others": [list(row) for row in self.others],
        }


def _range(limits: tuple[float, float] | None, show: Callable[[float], str]) -> str:
    return "" if limits is None else f"{show(limits[0])} to {show(limits[1])}"


def _cost(params: float, tokens: float, fleet: Fleet) -> Cost:
    flops_per_s = sum(p.num_devices * p.device.flops_per_s(DType.BF16) for p in fleet.parts)
    train_s = 6 * params * tokens / (flops_per_s * TRAINING_MFU)
    prices = [p.device.price for p in fleet.parts]
    train_usd = None
    if all(price is not None for price in prices):
        hourly = sum(
            p.num_devices * p.device.price.usd_per_hour for p in fleet.parts if p.device.price
        )
        train_usd = hourly * train_s / 3600
    first = fleet.parts[0].device
    serving = None
    with contextlib.suppress(InfeasibleError):
        serving = serving_point(params, first)
    million = None
    if serving is not None and first.price is not None:
        million = first.price.usd_per_hour / 3600 / serving.tokens_per_device_s * 1e6
    return Cost(
        train_s=train_s,
        train_usd=train_usd,
        devices=fleet.num_devices,
        mfu=TRAINING_MFU,
        serving=serving,
        usd_per_million=million,
    )


def _row(name: str, ask: Callable[[], AllocateAnswer]) -> tuple[str, str, str, str]:
    try:
        one = ask().found
    except InfeasibleError as error:
        return name, "-", "-", str(error).split(":")[-1].strip()
    mark = " (at an edge)" if one.edge else ""
    return (
        name,
        short_count_text(one.params) + mark,
        short_count_text(one.tokens),
        f"{one.loss:.4g}",
    )


def advise(
    law: str, flops: float, *, on: str, serve_tokens: float = 0.0, unique: float | None = None
) -> AdviseAnswer:
    """What to train with ``flops`` on the fleet ``on`` if ``serve_tokens`` are to be served and
    ``unique`` different tokens exist (None: as many as are wanted).

    Raises:
        SpecError: an unknown law or device, numbers that cannot be.
        InfeasibleError: nothing in reach of the law.
    """
    fleet = parse_fleet(on)

    def split_of(
        by: str, budget: float, served: float, limit: float | None = unique
    ) -> AllocateAnswer:
        return allocate(by, budget, serve_tokens=served, on=on if served else "", unique=limit)

    split = split_of(law, flops, serve_tokens)
    one = split.found
    hyper = suggest(one.params, one.tokens, seq_len=_SEQ_LEN)
    others = [
        _row(
            "ten times the compute",
            lambda: split_of(law, 10 * flops, serve_tokens),
        ),
        _row(
            "a tenth of it",
            lambda: split_of(law, flops / 10, serve_tokens / 10),
        ),
    ]
    if serve_tokens:
        others += [
            _row("nothing to serve", lambda: split_of(law, flops, 0.0)),
            _row(
                "three times to serve",
                lambda: split_of(law, flops, 3 * serve_tokens),
            ),
        ]
    if unique is not None:
        others.append(
            _row(
                "ten times the different tokens",
                lambda: split_of(law, flops, serve_tokens, 10 * unique),
            )
        )
    if law == "chinchilla":
        others.append(
            _row(
                "constants of the paper, not the refit",
                lambda: split_of("chinchilla-original", flops, serve_tokens),
            )
        )
    return AdviseAnswer(
        split=split,
        at=predict(split.law, {"params": one.params, "tokens": one.tokens}),
        hyper=hyper,
        cost=_cost(one.params, one.tokens, fleet),
        on=on,
        others=tuple(others),
    )
