"""One measured or proposed deployment: what was served, how it was cut, what users saw.

A row says which model ran on which system under which engine, the lengths and the number of
requests in flight, and the degrees of parallelism: one group of workers where prefill and
decode share devices ("agg"), two where they do not ("disagg"). What a table leaves blank is ""
or 0 here. Beside it, what a predictor answers: a prediction with its band, or a refusal.
Left out: schedulers, engine options, routing, distributions of lengths.
Source: the columns of published end-to-end benchmark runs (ai-dynamo/aiconfigurator).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from plimsoll.spec.io import PLAIN

__all__ = ["DeploymentRow", "Prediction", "Refusal", "Workers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """One kind of worker: how many, how each is cut, requests a batch of one attention rank.

    Zero: not named. An aggregated deployment is one worker.
    """

    __pydantic_config__: ClassVar = PLAIN
    count: int = 0
    tp: int = 0
    pp: int = 0
    attention_dp: int = 0
    moe_tp: int = 0
    moe_ep: int = 0
    batch: int = 0

    @property
    def num_devices(self) -> int:
        """Devices of all these workers, 0 where their count or ``tp`` is not named.

        A degree of ``pp`` or ``attention_dp`` that is not named counts as 1; experts live on
        the devices of attention. Where tensor and expert degree of the experts are equal and
        multiply to more than a node of 8, tables wrote one group's size twice: counted once.
        """
        width = self.tp * max(self.attention_dp, 1)
        if width > 8 and width == self.moe_tp * self.moe_ep and self.moe_tp == self.moe_ep:
            width = self.moe_ep
        return self.count * width * max(self.pp, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRow:
    """One row of a deployment table; ``line`` is where it starts in the file.

    "" and 0 stand for not named. ``workers`` is set in aggregated rows, ``prefill`` and
    ``decode`` in disaggregated ones, each None where the row names nothing of it.
    ``concurrency`` counts requests in flight over the whole deployment. Measured times are in
    milliseconds, as in the file, and None where not measured.
    """

    __pydantic_config__: ClassVar = PLAIN
    line: int
    id: str = ""
    model: str = ""
    system: str = ""
    backend: str = ""
    backend_version: str = ""
    measured_on: str = ""
    precision: str = ""
    gemm_format: str = ""
    moe_format: str = ""
    mode: Literal["agg", "disagg"]
    isl: int
    osl: int
    concurrency: int = 0
    workers: Workers | None = None
    prefill: Workers | None = None
    decode: Workers | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None

    @property
    def num_devices(self) -> int:
        """Devices of the deployment, 0 where the row does not name enough to count them."""
        groups = (self.workers,) if self.mode == "agg" else (self.prefill, self.decode)
        counts = [0 if group is None else group.num_devices for group in groups]
        return sum(counts) if all(counts) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Mean TTFT and TPOT of a deployment, each with its P10-P90 band.

    ``origin`` is one of ``plimsoll.spec.origin``; ``note`` says what was assumed, or is "".
    """

    __pydantic_config__: ClassVar = PLAIN
    ttft_s: float
    tpot_s: float
    ttft_low_s: float
    ttft_high_s: float
    tpot_low_s: float
    tpot_high_s: float
    origin: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a row is not predicted; the same words for the same cause, so that they count."""

    __pydantic_config__: ClassVar = PLAIN
    reason: str
