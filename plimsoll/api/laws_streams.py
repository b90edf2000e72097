"""Streams against parameters: which is the cheaper way to a loss on one device."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plimsoll.api.commands import command
from plimsoll.api.laws import law_data
from plimsoll.cost.parallel import StreamShape, scaled_shape, stream_shape
from plimsoll.laws.law import Law, law_of
from plimsoll.laws.predict import Prediction, predict
from plimsoll.laws.streams import (
    PAPER_SHAPE,
    StreamChoice,
    StreamLoad,
    StreamOffer,
    best_offer,
    stream_choices,
)
from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.wording import seconds_text, short_count_text
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.hardware import Device
from plimsoll.spec.model_files import load_model
from plimsoll.spec.origin import Number, Origin
from plimsoll.spec.units import parse_count

__all__ = ["StreamsAnswer", "laws_streams", "load_of", "stream_counts"]

_SIZE = re.compile(r"\d[\d_.]*(e\d+)?[kKMBGT]?")
_MOST_STREAMS = 1024


def stream_counts(text: str) -> tuple[int, ...]:
    """``1,2,4,8`` as numbers of streams.

    Raises:
        SpecError: not whole numbers from 1 to 1,024, each once.
    """
    found = tuple(parse_count(word, where="--streams") for word in text.split(","))
    wrong = next((p for p in found if not 1 <= p <= _MOST_STREAMS), None)
    if wrong is not None or len(set(found)) < len(found):
        what = "a number twice" if wrong is None else f"{wrong} streams"
        raise SpecError(f"--streams {text}: {what}; expected numbers from 1 to 1,024, each once")
    return found


def load_of(lengths: str, batch: int) -> StreamLoad:
    """``512/512`` (tokens in and out) of ``batch`` requests at once.

    Raises:
        SpecError: not of that form, or less than one of anything.
    """
    words = lengths.split("/")
    if len(words) != 2:
        raise SpecError(f"--lengths {lengths!r}: expected tokens in and out, as in 512/512")
    prompt, output = (parse_count(word, where="--lengths") for word in words)
    for name, value in (("--lengths", prompt), ("--lengths", output), ("--batch", batch)):
        if value < 1:
            raise SpecError(f"{name}: {value}; expected 1 or more")
    return StreamLoad(batch=batch, prompt_tokens=prompt, output_tokens=output)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamsAnswer:
    """``best``: of least loss within the bounds, which are 0 for none."""

    law: Law
    base: str
    shape: StreamShape
    device: Device
    load: StreamLoad
    choices: tuple[StreamChoice, ...]
    best: StreamOffer
    latency_s: float
    usd_per_million: float
    at: Prediction
    asked: tuple[str, ...] = ()

    def report(self) -> Report:
        """See ``Answer``."""
        load, best = self.load, self.best
        bounds = [f"{seconds_text(self.latency_s)} a request"] if self.latency_s else []
        bounds += [f"{self.usd_per_million:g} USD"] if self.usd_per_million else []
        within = f" within {' and '.join(bounds)}" if bounds else ""
        words = f"{short_count_text(best.params)} parameters"
        words += f" with {best.streams} streams" if best.streams > 1 else " in one stream"
        rows = []
        for one in self.choices:
            rows.extend(self._rows(one))
        most = max(one.with_streams.streams for one in self.choices)
        notes = [f"{most} streams: {self.at.warning}"] if self.at.warning else []
        if any(not side.fits for one in self.choices for side in _sides(one)):
            notes.append(
                f"*: more than 90 % of the {self.device.memory_bytes / 2**30:,.0f} GiB of "
                f"{self.device.name}; not chosen"
            )
        million = best.usd_per_million
        return Report(
            title=f"Least loss{within}: {words}",
            subtitle=f"{self.base} on {self.device.name}, batch {load.batch}, "
            f"{load.prompt_tokens:,} tokens in and {load.output_tokens:,} out; "
            f"{self.law.form.formula}, {self.law.source}",
            command=command(*(self.asked or self._words())),
            key_numbers=(
                KeyNumber(
                    name="Loss",
                    number=Number(value=best.loss, unit=self.law.unit, origin=self._origin(best)),
                    digits=4,
                    note=f"one stream of the base: {self._first().loss:.4g}",
                ),
                KeyNumber(
                    name="Latency",
                    number=Number(value=best.cost.latency_s, unit="s", origin=Origin.MODELED),
                    note="the whole batch, prompt and output"
                    if million is None
                    else f"{million:.3g} USD a million output tokens",
                ),
            ),
            tables=(
                Table(
                    title="Equal losses, two ways",
                    columns=("P", "", "params", "loss", "memory", "latency", "USD/M", "cheaper"),
                    rows=tuple(rows),
                    notes=(
                        "cheaper: the faster of what fits, which on one device also costs less",
                        *self._batches(),
                    ),
                ),
            ),
            assumptions=(
                "roofline with 0.7 of the device's arithmetic and 0.9 of its bandwidth in bf16; "
                "activations left out of memory",
                *self._proportions(),
                "the larger model is as deep as the base and wider; params without embeddings",
                "equal training tokens; streams run each of them P times, or are added to a "
                "trained base in a few percent of them",
            ),
            notes=tuple(notes),
            next_command=command(*self._words(times=8)),
        )

    def _proportions(self) -> tuple[str, ...]:
        if not _SIZE.fullmatch(self.base):
            return ()
        return (
            "a size has the proportions of the paper's models: 36 layers, 16 heads, 2 with KV; "
            "more KV heads favor the larger model",
        )

    def _first(self) -> StreamOffer:
        one = min(self.choices, key=lambda choice: choice.with_streams.streams)
        return one.with_streams

    def _origin(self, offer: StreamOffer) -> Origin:
        at = predict(self.law, {"params": offer.params, "streams": float(offer.streams)})
        return Origin.EXTRAPOLATED if at.outside else Origin.MODELED

    def _rows(self, one: StreamChoice) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        sides = _sides(one)
        for side in sides:
            streams = side.kind == "streams"
            name = f"{side.streams} streams" if streams else "larger model"
            name = "base" if len(sides) == 1 else name
            usd = side.usd_per_million
            found.append(
                (
                    f"{one.with_streams.streams}" if streams else "",
                    name,
                    short_count_text(side.params),
                    f"{side.loss:.4f}",
                    f"{side.cost.memory_bytes / 2**30:.3g} GiB{'' if side.fits else ' *'}",
                    seconds_text(side.cost.latency_s),
                    "-" if usd is None else f"{usd:.3g}",
                    "this" if len(sides) > 1 and side is one.cheaper else "",
                )
            )
        return found

    def _batches(self) -> tuple[str, ...]:
        """Up to which batch streams are the faster."""
        parts = []
        for one in self.choices:
            if one.with_streams.streams == 1:
                continue
            most = one.up_to_batch
            words = "at every batch" if most is None else f"up to batch {most}"
            words = "at no batch" if most == 0 else words
            parts.append(f"{one.with_streams.streams} streams {words}")
        return (f"streams are the faster: {', '.join(parts)}",) if parts else ()

    def _words(self, times: int = 1) -> tuple[str, ...]:
        load = self.load
        lengths = f"{load.prompt_tokens}/{load.output_tokens}"
        words = ("laws", "streams", self.base, "--on", self.device.name, "--law", self.law.name)
        return (*words, "--batch", str(times * load.batch), "--lengths", lengths)

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "law": law_data(self.law),
            "base": self.base,
            "device": self.device.name,
            "batch": self.load.batch,
            "prompt_tokens": self.load.prompt_tokens,
            "output_tokens": self.load.output_tokens,
            "latency_bound_s": self.latency_s or None,
            "usd_bound_per_million_tokens": self.usd_per_million or None,
            "best": _offer_data(self.best),
            "choices": [
                {
                    "streams": one.with_streams.streams,
                    "with_streams": _offer_data(one.with_streams),
                    "larger": _offer_data(one.larger),
                    "cheaper": one.cheaper.kind,
                    "streams_faster_up_to_batch": one.up_to_batch,
                }
                for one in self.choices
            ],
            "warning": self.at.warning,
        }


def _sides(one: StreamChoice) -> tuple[StreamOffer, ...]:
    """Both ways; with one stream they are the same."""
    if one.with_streams.streams == 1:
        return (one.with_streams,)
    return one.with_streams, one.larger


def _offer_data(offer: StreamOffer) -> dict[str, Any]:
    cost = offer.cost
    return {
        "kind": offer.kind,
        "streams": offer.streams,
        "params": offer.params,
        "loss": offer.loss,
        "weight_bytes": cost.weight_bytes,
        "kv_bytes": cost.kv_bytes,
        "memory_bytes": cost.memory_bytes,
        "prefill_s": cost.prefill_s,
        "decode_s": cost.decode_s,
        "latency_s": cost.latency_s,
        "usd_per_million_tokens": offer.usd_per_million,
        "fits": offer.fits,
    }


def _shape(base: str) -> tuple[str, StreamShape]:
    """A size in the proportions of the paper's models, or a model's own shape."""
    if _SIZE.fullmatch(base.strip()):
        params = parse_count(base, where="model")
        if params < 1:
            raise SpecError(f"model {base!r}: expected a size above zero, as in 1.6B")
        return base.strip(), scaled_shape(PAPER_SHAPE, params)
    model = load_model(base)
    return model.name, stream_shape(model)


def _one_device(on: str) -> Device:
    fleet = parse_fleet(on)
    if fleet.num_devices > 1:
        raise SpecError(
            f"--on {on}: {fleet.num_devices} devices; both ways are costed on one, so name one, as "
            f"in {fleet.parts[0].device.name}"
        )
    return fleet.parts[0].device


def laws_streams(
    base: str,
    on: str,
    *,
    law: str = "parscale-stack",
    streams: Sequence[int] = (1, 2, 4, 8),
    load: StreamLoad | None = None,
    latency_s: float = 0.0,
    usd_per_million: float = 0.0,
    dtype: DType = DType.BF16,
    asked: tuple[str, ...] = (),
) -> StreamsAnswer:
    """Trade streams against parameters. ``base``: a model, or a size as in 1.6B. Bounds are of a
    request (its whole batch) and of a million output tokens; 0 for none.

    Raises:
        SpecError: an unknown model, law or device, several devices, or numbers that cannot be.
        InfeasibleError: nothing keeps the bounds or fits the device.
        UnsupportedError: a model whose layers are not costed with streams.
    """
    found = law_of(law)
    name, shape = _shape(base)
    device = _one_device(on)
    load = load or StreamLoad()
    choices = stream_choices(found, shape, device, load, streams=streams, dtype=dtype)
    best = best_offer(choices, latency_s=latency_s, usd_per_million=usd_per_million)
    most = max(streams)
    at = {"params": shape.parameters(most), "streams": float(most)}
    return StreamsAnswer(
        law=found,
        base=name,
        shape=shape,
        device=device,
        load=load,
        choices=choices,
        best=best,
        latency_s=latency_s,
        usd_per_million=usd_per_million,
        at=predict(found, at),
        asked=asked,
    )
