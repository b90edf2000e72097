"""What was measured of one machine, as its hardware file keeps it: times, rates, their errors.

Linear layers are a table of seconds over tokens, output width, input width and the bytes that
pass through the caches between two uses of a weight. Attention, the operators between the
matrices and sampling are sums of a few products, one coefficient each. Rates are of copies,
files and links. What was not measured is absent. Leaves out: anything derived from data sheets.
Source: written by ``plimsoll calibrate``; read by ``cost/measured_clock.py``.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field

from plimsoll.spec.dtype import DType
from plimsoll.spec.io import PLAIN

__all__ = [
    "Coefficient",
    "DecodeTimes",
    "EngineTimes",
    "LightTimes",
    "LinearTimes",
    "Measured",
    "MeasuredKernels",
    "MeasuredRates",
    "PassFactors",
    "PrefillTimes",
    "SamplingTimes",
]

NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """A measured number and its uncertainty in the same unit, which the field's name ends in.

    ``error`` is half the range between the quartiles of the repeats where one thing was timed,
    and the standard error where several were fitted together.
    """

    __pydantic_config__: ClassVar = PLAIN
    value: NotNegative
    error: NotNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearTimes:
    """Seconds of ``[tokens, inputs] @ [inputs, outputs]``, one call, interpolated in logarithms.

    ``seconds[c][o][i][t]``: index c is of ``cycled_bytes`` (weights touched before the same one
    comes again: little stays in the caches, much does not), o of ``outputs``, i of ``inputs``,
    t of ``tokens``. ``spread_fraction`` is the median over entries of half the quartile range
    over the median; ``error_fraction`` the median relative error at shapes left out of the table.
    """

    __pydantic_config__: ClassVar = PLAIN
    cycled_bytes: tuple[Positive, ...]
    outputs: tuple[Count, ...]
    inputs: tuple[Count, ...]
    tokens: tuple[Count, ...]
    seconds: tuple[tuple[tuple[tuple[Positive, ...], ...], ...], ...]
    spread_fraction: NotNegative
    error_fraction: NotNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTimes:
    """Attention of one layer over paged keys and values, one token a sequence.

    layer_s + sequence_s * sequences + score_s * query heads * context tokens + r * v, where v is
    the cached values that all sequences read: context tokens * KV heads * (key + value width).
    r is interpolated over the logarithm of v between ``nodes`` in ``value_s``, and held beyond.
    """

    __pydantic_config__: ClassVar = PLAIN
    layer_s: Coefficient
    sequence_s: Coefficient
    score_s: Coefficient
    nodes: tuple[Positive, ...]
    value_s: tuple[Coefficient, ...]
    error_fraction: NotNegative
    num_points: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillTimes:
    """Attention of one layer for one prompt chunk over its prefix and itself.

    chunk_s + kv_value_s * cached values a token * tokens in all (0 without a prefix) +
    token_value_s * query values * new tokens + (score_s * heads + p * query values) * new tokens *
    tokens in all. p is interpolated over the logarithm of new tokens between ``nodes``: in
    ``whole_pair_s`` where there is no prefix, so that half the pairs are skipped, else in
    ``prefix_pair_s``.
    """

    __pydantic_config__: ClassVar = PLAIN
    chunk_s: Coefficient
    kv_value_s: Coefficient
    token_value_s: Coefficient
    score_s: Coefficient
    nodes: tuple[Count, ...]
    whole_pair_s: tuple[Coefficient, ...]
    prefix_pair_s: tuple[Coefficient, ...]
    error_fraction: NotNegative
    num_points: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class LightTimes:
    """Operators of one layer between its matrices: norms, rotary, sums, the activation.

    layer_s (launches, whatever the sizes) + tokens * (hidden_value_s * hidden width +
    ffn_value_s * intermediate width + query_value_s * (query + KV values)). ``step_s`` and
    ``step_value_s`` (a hidden value) are of the embedding and the last norm, once a step.
    """

    __pydantic_config__: ClassVar = PLAIN
    layer_s: Coefficient
    hidden_value_s: Coefficient
    ffn_value_s: Coefficient
    query_value_s: Coefficient
    step_s: Coefficient
    step_value_s: Coefficient
    error_fraction: NotNegative
    num_points: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingTimes:
    """Picking the next token of each sampled row, after the head: a step, and a score of a row."""

    __pydantic_config__: ClassVar = PLAIN
    step_s: Coefficient
    score_s: Coefficient
    error_fraction: NotNegative
    num_points: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class PassFactors:
    """How many times longer the parts of a whole pass take than timed alone, over and over.

    Other parts run in between and leave the caches and the threads in another state. ``linear``
    is for linear layers and the head, ``attention``, and ``light`` for the operators between
    them and sampling; from ``num_points`` passes of models of their own.
    """

    __pydantic_config__: ClassVar = PLAIN
    linear: Coefficient
    attention: Coefficient
    light: Coefficient
    error_fraction: NotNegative
    num_points: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredKernels:
    """Everything a forward pass in one number format is made of.

    ``factors`` None: the parts of a pass are taken to run as fast as alone.
    ``pass_error_fraction`` is the median relative error of the clock made from it at
    ``num_passes`` whole forward passes of models that no coefficient was fitted on; None: not
    checked.
    """

    __pydantic_config__: ClassVar = PLAIN
    linear: LinearTimes
    decode: DecodeTimes
    prefill: PrefillTimes
    light: LightTimes
    sampling: SamplingTimes
    factors: PassFactors | None = None
    pass_error_fraction: NotNegative | None = None
    num_passes: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRates:
    """Bytes moved a second outside the kernels.

    ``copy_bytes_per_s`` counts each byte copied once; ``copy_traffic_bytes_per_s`` counts the
    read and the write, as data sheets do. ``swap_*`` is between device and host (on a CPU, host
    memory to host memory). Disk: a temporary file, written and flushed, then read;
    ``disk_read_cached`` where the operating system did not let go of it. ``all_reduce_*`` and
    ``send_*`` are of two processes; ``collective`` names the library.
    """

    __pydantic_config__: ClassVar = PLAIN
    copy_bytes_per_s: Coefficient
    copy_traffic_bytes_per_s: Coefficient
    swap_out_bytes_per_s: Coefficient
    swap_in_bytes_per_s: Coefficient
    swap_s: Coefficient
    disk_write_bytes_per_s: Coefficient
    disk_read_bytes_per_s: Coefficient
    disk_read_cached: bool
    collective: str = ""
    all_reduce_s: Coefficient | None = None
    all_reduce_bytes_per_s: Coefficient | None = None
    send_s: Coefficient | None = None
    send_bytes_per_s: Coefficient | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTimes:
    """What the serving engine spends beside the forward pass and sampling.

    step_s + sequence_s * sequences + token_s * tokens in a step; ``request_s`` once a request:
    taking it in and letting it go, beyond what its steps cost.
    """

    __pydantic_config__: ClassVar = PLAIN
    step_s: Coefficient
    sequence_s: Coefficient
    token_s: Coefficient
    request_s: Coefficient
    num_points: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The measurements of one machine. ``engine`` None: the engine's own time was not measured."""

    __pydantic_config__: ClassVar = PLAIN
    kernels: dict[DType, MeasuredKernels] = field(default_factory=dict)
    rates: MeasuredRates
    engine: EngineTimes | None = None
    num_threads: Count
    software: str
    """Versions that ran, as in "torch 2.9.0, Python 3.12.3"."""
