"""NanoFlow's arithmetic: what an iteration computes, reads and sends, from the model's shape alone.

Rows of its operator table, the best possible rate, and how far reading memory is from being what
binds, for six length mixes. Rates of arithmetic are a parameter: the best rate is printed for
260 TFLOP/s though the text says 280, the rest is at the data sheet's 312.
Source: arXiv 2408.12757, table 2 and figure 3.
"""

from collections.abc import Callable

from plimsoll.catalog.contract import Between, Check, Claim, Context, Measured, Report, Within
from plimsoll.catalog.nanoflow_setting import BATCH_TOKENS, DEVICES, LENGTHS, model
from plimsoll.cost.dense_batch import (
    dense_gemms,
    iteration_network_bytes,
    memory_to_compute_ratio,
    optimal_tokens_per_s,
)
from plimsoll.spec.model_files import load_model
from plimsoll.spec.parameters import total_parameters

__all__ = ["ARITHMETIC_CHECKS", "ARITHMETIC_CLAIMS"]

_PEAK_FLOPS_PER_S = 312e12
_MEMORY_BYTES = 80e9
_MEMORY_BYTES_PER_S = 2e12
_REACHED_FLOPS_PER_S = 260e12
_TEXT_FLOPS_PER_S = 280e12
_NAMED_PARAMETERS = 70e9
"""As the model's name has it, which the printed optimum needs; its matrices hold 69.0e9."""

_TABLE = {
    "kqv": (27487.8, 11.01),
    "o": (21990.2, 8.81),
    "ug": (153931.6, 61.67),
    "d": (76965.8, 30.84),
}
_RATIOS = {
    "llama-2-70b": (DEVICES, (0.07, 0.09, 0.11, 0.18, 0.20, 0.32)),
    "llama-3-8b": (1, (0.23, 0.31, 0.37, 0.61, 0.68, 1.09)),
    "mixtral-8x7b": (DEVICES, (0.12, 0.17, 0.20, 0.32, 0.36, 0.58)),
}
_ROUNDING = 0.01


def _gflop(name: str) -> Callable[[Context], Measured]:
    def compute(_: Context) -> Measured:
        gemms = {gemm.name: gemm for gemm in dense_gemms(model(), tokens=BATCH_TOKENS)}
        return Measured(value=gemms[name].flops / 1e9, detail="from the model's shape")

    return compute


def _estimated_ms(name: str) -> Callable[[Context], Measured]:
    def compute(_: Context) -> Measured:
        gemms = {gemm.name: gemm for gemm in dense_gemms(model(), tokens=BATCH_TOKENS)}
        time_s = gemms[name].compute_s(DEVICES * _PEAK_FLOPS_PER_S)
        return Measured(value=time_s * 1e3, detail="8 devices at 312 TFLOP/s")

    return compute


def _network_gb(devices: int) -> Callable[[Context], Measured]:
    def compute(_: Context) -> Measured:
        received = iteration_network_bytes(model(), tokens=BATCH_TOKENS, devices=devices)
        return Measured(value=received / 1e9)

    return compute


def _optimum(flops_per_s: float) -> Callable[[Context], Measured]:
    def compute(_: Context) -> Measured:
        best = optimal_tokens_per_s(flops_per_s=flops_per_s, parameters=_NAMED_PARAMETERS)
        counted = total_parameters(model())
        exact = optimal_tokens_per_s(flops_per_s=flops_per_s, parameters=counted)
        detail = f"{exact:.0f} with the {counted / 1e9:.2f}e9 parameters there are"
        return Measured(value=best, detail=detail)

    return compute


def _ratio(name: str, devices: int, lengths: tuple[int, int]) -> Callable[[Context], Measured]:
    def compute(_: Context) -> Measured:
        value = memory_to_compute_ratio(
            load_model(name),
            memory_bytes=devices * _MEMORY_BYTES,
            memory_bytes_per_s=devices * _MEMORY_BYTES_PER_S,
            flops_per_s=devices * _PEAK_FLOPS_PER_S,
            prompt_tokens=lengths[0],
            output_tokens=lengths[1],
        )
        return Measured(value=value)

    return compute


def _table_rows() -> tuple[tuple[Claim, ...], tuple[Check, ...]]:
    claims, checks = [], []
    for name, (gflop, ms) in _TABLE.items():
        upper = name.upper()
        work = Claim(
            id=f"{name}-gflop", text=f"Work of {upper}", value=gflop, unit="GFLOP", where="table 2"
        )
        time = Claim(
            id=f"{name}-ms", text=f"Estimated time of {upper}", value=ms, unit="ms", where="table 2"
        )
        claims += [work, time]
        for claim, compute in ((work, _gflop(name)), (time, _estimated_ms(name))):
            checks.append(
                Check(
                    claim=claim.id,
                    title=claim.text,
                    how="derived",
                    band=Within(0.001),
                    compute=compute,
                )
            )
    return tuple(claims), tuple(checks)


def _ratio_rows() -> tuple[tuple[Claim, ...], tuple[Check, ...]]:
    claims, checks = [], []
    for name, (devices, printed) in _RATIOS.items():
        for (mix, lengths), value in zip(LENGTHS.items(), printed, strict=True):
            claim = Claim(
                id=f"ratio-{name}-{mix.replace('/', '-')}",
                text=f"Time to read memory over time to compute, {name} at {mix}",
                value=value,
                unit="x",
                setup=f"{devices} x A100-80G, batch that fills memory",
                where="figure 3",
            )
            claims.append(claim)
            fits = name != "mixtral-8x7b"
            checks.append(
                Check(
                    claim=claim.id,
                    title=f"{name} at {mix}",
                    how="derived",
                    band=Between(value - _ROUNDING, value + _ROUNDING)
                    if fits
                    else Report("printed with about 14e9 active parameters; it has 12.9e9"),
                    compute=_ratio(name, devices, lengths),
                )
            )
    return tuple(claims), tuple(checks)


_TABLE_CLAIMS, _TABLE_CHECKS = _table_rows()
_RATIO_CLAIMS, _RATIO_CHECKS = _ratio_rows()

ARITHMETIC_CLAIMS = (
    *_TABLE_CLAIMS,
    Claim(
        id="network-gb",
        text="Bytes of collectives in an iteration",
        value=75.2,
        unit="GB",
        where="table 2",
    ),
    Claim(
        id="optimum",
        text="Best possible rate",
        value=1857,
        unit="tokens/s/GPU",
        setup="LLaMA-2-70B, 8 x A100-80G",
        where="optimum of the evaluation",
    ),
    *_RATIO_CLAIMS,
)
ARITHMETIC_CHECKS = (
    *_TABLE_CHECKS,
    Check(
        claim="network-gb",
        title="bytes received by 8 devices",
        how="derived",
        band=Within(0.001),
        compute=_network_gb(DEVICES),
        ablation=_network_gb(DEVICES + 1),
        ablation_title="each device also sends to itself",
    ),
    Check(
        claim="optimum",
        title="rate if only multiplies took time, at 260 TFLOP/s",
        how="derived",
        band=Within(0.001),
        compute=_optimum(_REACHED_FLOPS_PER_S),
        ablation=_optimum(_TEXT_FLOPS_PER_S),
        ablation_title="at the 280 TFLOP/s of the text",
    ),
    *_RATIO_CHECKS,
)
