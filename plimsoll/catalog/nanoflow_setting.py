"""The NanoFlow evaluation: LLaMA-2-70B on 8 x A100-80G SXM, FP16, dense batch of 2048 tokens.

Times of each operator running alone are those the paper measured. What cutting costs is not
printed: weights are read again at the bandwidth its decode attention reached, and collectives pay
their latency again as ``cost/collectives`` has it. Speed curves are linear between printed rows.
Source: arXiv 2408.12757, tables 2 and 4.
"""

from typing import Literal

import numpy as np

from plimsoll.cost.collectives import all_reduce_work, exchange_work, fabric_of
from plimsoll.cost.dense_batch import dense_gemms
from plimsoll.cost.efficiency import calibration_for
from plimsoll.cost.overlap_curves import overlap_curves
from plimsoll.cost.overlap_profile import (
    Curves,
    Dependency,
    Lane,
    OpProfile,
    SpeedCurve,
)
from plimsoll.spec.fleet import load_device
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.model_files import load_model

__all__ = [
    "BATCH_TOKENS",
    "CURVES",
    "DEVICES",
    "FREE_CURVES",
    "LENGTHS",
    "MEASURED_MS",
    "Network",
    "dependencies",
    "model",
    "operators",
]

BATCH_TOKENS = 2048
DEVICES = 8
LENGTHS = {
    "LMSYS": (102, 222),
    "Splitwise": (1155, 211),
    "ShareGPT": (246, 322),
    "512/512": (512, 512),
    "1024/512": (1024, 512),
    "512/1024": (512, 1024),
}
"""Mean prompt and output tokens."""
MEASURED_MS = {
    "kqv": 16.08,
    "o": 16.01,
    "ug": 69.92,
    "d": 34.96,
    "decode attention": 35.60,
    "prefill attention": 4.56,
    "network": 47.92,
}
"""All layers, each operator alone on the machine."""
_DECODE_ATTENTION_BYTES = 462.2e9
_ACTIVATION_BYTES = 2

CURVES: Curves = overlap_curves()

FREE_CURVES: Curves = {
    lane: SpeedCurve(lane=lane, shares=(0.0, 1e-6, 1.0), speeds=(0.0, 1.0, 1.0))
    for lane in ("compute", "memory", "network")
}
"""The mistake to avoid: kernels that do not slow each other, as if each had a device of its own."""

Network = Literal["gathers", "reduces"]
"""Two all-gathers and an all-reduce a layer, or two all-reduces; the same bytes."""


def model() -> ModelSpec:
    """LLaMA-2-70B."""
    return load_model("llama-2-70b")


def _cut_once_more_s(*, reduces: bool) -> float:
    """What a collective of the whole batch takes longer in two halves, by ``cost/collectives``."""
    device = load_device("A100-SXM-80")
    rates, fabric = calibration_for(device).collective, fabric_of(device, DEVICES, DEVICES)
    message = BATCH_TOKENS * model().hidden_size * _ACTIVATION_BYTES
    sizes = np.array([message, message / 2])
    if reduces:
        times_s = all_reduce_work(sizes, fabric, rates).time_s
    else:
        times_s = exchange_work(sizes, fabric, rates, gathers=True).time_s
    return float(2 * times_s[1] - times_s[0])


def operators(network: Network = "gathers", *, priced: bool = True) -> tuple[OpProfile, ...]:
    """Operators of one layer on the whole dense batch.

    Each piece of a multiply reads the weights again, each piece of a collective pays its latency
    again; ``priced`` False forgets both.
    """
    layers = model().num_layers
    bytes_per_s = _DECODE_ATTENTION_BYTES / (MEASURED_MS["decode attention"] * 1e-3)
    fixed_s = {
        gemm.name: gemm.weight_bytes / bytes_per_s / layers
        for gemm in dense_gemms(model(), tokens=BATCH_TOKENS)
    }
    for name in ("gather heads", "gather hidden"):
        fixed_s[name] = _cut_once_more_s(reduces=False)
    for name in ("reduce attention", "reduce output"):
        fixed_s[name] = _cut_once_more_s(reduces=True)

    def op(name: str, lane: Lane, row: str, part: float = 1.0) -> OpProfile:
        return OpProfile(
            name=name,
            lane=lane,
            best_s=MEASURED_MS[row] * 1e-3 * part / layers,
            fixed_s=fixed_s.get(name, 0.0) if priced else 0.0,
        )

    attention = (
        op("kqv", "compute", "kqv"),
        op("prefill attention", "compute", "prefill attention"),
        op("decode attention", "memory", "decode attention"),
    )
    feed_forward = (op("ug", "compute", "ug"), op("d", "compute", "d"))
    if network == "reduces":
        first = op("reduce attention", "network", "network", 0.5)
        last = op("reduce output", "network", "network", 0.5)
        return (*attention, op("o", "compute", "o"), first, *feed_forward, last)
    heads = op("gather heads", "network", "network", 0.25)
    hidden = op("gather hidden", "network", "network", 0.25)
    last = op("reduce output", "network", "network", 0.5)
    return (*attention, heads, op("o", "compute", "o"), hidden, *feed_forward, last)


def dependencies(network: Network = "gathers") -> tuple[Dependency, ...]:
    """Who reads whose output."""
    attentions = ("prefill attention", "decode attention")
    if network == "reduces":
        chain = ("o", "reduce attention", "ug", "d", "reduce output")
    else:
        chain = ("gather heads", "o", "gather hidden", "ug", "d", "reduce output")
    return (
        *(Dependency(parent="kqv", child=attention) for attention in attentions),
        *(Dependency(parent=attention, child=chain[0]) for attention in attentions),
        *(Dependency(parent=a, child=b) for a, b in zip(chain, chain[1:], strict=False)),
        Dependency(parent=chain[-1], child="kqv", next_layer=True),
    )
