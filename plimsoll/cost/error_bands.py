"""How far a predicted TTFT or TPOT lies from what deployments measured: P10 and P90 factors.

The logarithm of measured over predicted has a P10 and a P90 for each metric and mode. Where the
question leaves what was measured, both move outward: every reason multiplies the distance of the
two from 0 (a ratio of 1) by its ``widening``, and a bound on the far side of 0 moves as much
towards and past it. So a band never narrows, and 8 of 10 deployments are meant to lie inside.
Leaves out: how the error of one statistic differs from that of another (a mean and a P99 get the
same factors), the correlation of TTFT and TPOT, and every clock but the library's.

``plimsoll/library/engines/error_bands.yaml`` holds, with ``source`` and ``as_of``:

    bands:                    {ttft, tpot} x {aggregated, disaggregated, and either with _guessed:
                              settings of the deployment were inferred}: {low_log, high_log}
    widening:                 factors of 1 or more
      unseen_device           the device is not in measured.devices
      unseen_model            the kind of the model is not in measured.model_kinds
      outside_range           once for each of the three quantities below outside its range
      high_load               TTFT only: queueing is most of it
    measured:
      devices                 names of bundled devices
      model_kinds             of dense, mixture-of-experts, latent-attention, sparse-attention,
                              linear-attention, state-space
      prompt_tokens, output_tokens, batch_per_device: {least, most}; means over the requests,
                              and requests in flight over devices
    high_load_queue_fraction  share of queueing in mean TTFT from which ``high_load`` applies
"""

import functools
import math
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plimsoll.spec.io import PLAIN, read
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.origin import Band

__all__ = [
    "Band",
    "ErrorBands",
    "LogBand",
    "Measured",
    "Metric",
    "MetricBands",
    "ModelKind",
    "Range",
    "Widening",
    "error_bands",
    "latency_band",
    "model_kind",
]

Metric = Literal["ttft", "tpot"]
ModelKind = Literal[
    "dense",
    "mixture-of-experts",
    "latent-attention",
    "sparse-attention",
    "linear-attention",
    "state-space",
]
Factor = Annotated[float, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogBand:
    """P10 and P90 of log(measured / predicted)."""

    __pydantic_config__: ClassVar = PLAIN
    low_log: float
    high_log: float

    def __post_init__(self) -> None:
        """Refuses a band upside down."""
        if self.low_log > self.high_log:
            raise ValueError(f"low_log {self.low_log:g} is above high_log {self.high_log:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricBands:
    """The band of a metric by mode: one pool for both phases, or prefill apart from decode.

    ``*_guessed`` hold where settings of the deployment were inferred.
    """

    __pydantic_config__: ClassVar = PLAIN
    aggregated: LogBand
    disaggregated: LogBand
    aggregated_guessed: LogBand
    disaggregated_guessed: LogBand

    def base(self, *, disaggregated: bool, guessed: bool) -> LogBand:
        """The band before any widening."""
        if disaggregated:
            return self.disaggregated_guessed if guessed else self.disaggregated
        return self.aggregated_guessed if guessed else self.aggregated


@dataclass(frozen=True, slots=True, kw_only=True)
class Widening:
    """What multiplies the logarithms of a band; see the module."""

    __pydantic_config__: ClassVar = PLAIN
    unseen_device: Factor
    unseen_model: Factor
    outside_range: Factor
    high_load: Factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What was measured, both ends included."""

    __pydantic_config__: ClassVar = PLAIN
    least: NotNegative
    most: NotNegative

    def __post_init__(self) -> None:
        """Refuses a range upside down."""
        if self.least > self.most:
            raise ValueError(f"least {self.least:g} is above most {self.most:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Where the ratios were measured."""

    __pydantic_config__: ClassVar = PLAIN
    devices: tuple[str, ...]
    model_kinds: tuple[ModelKind, ...]
    prompt_tokens: Range
    output_tokens: Range
    batch_per_device: Range


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBands:
    """The whole file."""

    __pydantic_config__: ClassVar = PLAIN
    bands: dict[Metric, MetricBands]
    widening: Widening
    measured: Measured
    high_load_queue_fraction: Annotated[float, Field(ge=0, le=1)]
    source: str
    as_of: str

    def __post_init__(self) -> None:
        """Refuses a file that leaves out a metric."""
        missing = [metric for metric in ("ttft", "tpot") if metric not in self.bands]
        if missing:
            raise ValueError(f"bands lacks {' and '.join(missing)}")


@functools.cache
def error_bands() -> ErrorBands:
    """The bundled bands."""
    file = resources.files("plimsoll.library") / "engines" / "error_bands.yaml"
    with resources.as_file(file) as path:
        return read(ErrorBands, path)


def latency_band(
    metric: Metric,
    *,
    disaggregated: bool,
    device: str,
    model: ModelSpec,
    prompt_tokens: float | None,
    output_tokens: float | None,
    batch_per_device: float | None = None,
    guessed: int = 0,
    queue_fraction: float | None = None,
    table: ErrorBands | None = None,
) -> Band:
    """The band of a predicted ``metric`` of ``model`` on ``device``, by its name.

    Lengths are means over the requests, ``batch_per_device`` requests in flight over devices,
    ``queue_fraction`` the share of queueing in mean TTFT; None where there is none or it is not
    known, which widens nothing. ``guessed`` settings were inferred. ``table`` None: the bundled.
    """
    table = table or error_bands()
    measured, widening = table.measured, table.widening
    widened: list[tuple[str, float]] = []
    if device not in measured.devices:
        widened.append(("device not measured", widening.unseen_device))
    if model_kind(model) not in measured.model_kinds:
        widened.append(("kind of model not measured", widening.unseen_model))
    for value, known, below, above in (
        (prompt_tokens, measured.prompt_tokens, "shorter prompts", "longer prompts"),
        (output_tokens, measured.output_tokens, "shorter outputs", "longer outputs"),
        (batch_per_device, measured.batch_per_device, "smaller batches", "larger batches"),
    ):
        if value is not None and not known.least <= value <= known.most:
            words = f"{below if value < known.least else above} than measured"
            widened.append((words, widening.outside_range))
    if guessed > 0:
        words = "1 setting guessed" if guessed == 1 else f"{guessed} settings guessed"
        widened.append((words, 1.0))
    if (
        metric == "ttft"
        and queue_fraction is not None
        and queue_fraction > table.high_load_queue_fraction
    ):
        widened.append(("mostly queueing", widening.high_load))
    band = table.bands[metric].base(disaggregated=disaggregated, guessed=guessed > 0)
    more = math.prod(factor for _, factor in widened) - 1
    return Band(
        low=math.exp(band.low_log - more * abs(band.low_log)),
        high=math.exp(band.high_log + more * abs(band.high_log)),
        reasons=tuple(words for words, _ in widened),
    )


def model_kind(model: ModelSpec) -> ModelKind:
    """The kind of a model for error bands: by what is least like a dense transformer in it.

    Any layer counts; windows and chunks of attention do not make a kind of their own.
    """
    layers = [group.layer for group in model.layers]
    mixers = [layer.mixer for layer in layers]
    kinds = {mixer.kind for mixer in mixers}
    if "linear-attention" in kinds:
        return "linear-attention"
    if "state-space" in kinds:
        return "state-space"
    if any(getattr(mixer, "indexer", None) is not None for mixer in mixers):
        return "sparse-attention"
    if "mla" in kinds:
        return "latent-attention"
    if any(layer.ffn.kind == "moe" for layer in layers):
        return "mixture-of-experts"
    return "dense"
