"""Service-level objectives as options spell them.

``--ttft-p99 2s`` bounds the 99th percentile of TTFT. The general form is
``METRIC:pPERCENTILE[@CLASS]=BOUND``, for example ``itl:p95@chat=80ms``.
"""

import re
from collections.abc import Sequence

from plimsoll.spec.errors import SpecError
from plimsoll.spec.slo import METRICS, Slo, SloTarget
from plimsoll.spec.units import parse_quantity

__all__ = ["slo_from_options"]

_FORM = re.compile(r"^\s*(\w+)\s*:\s*p(\d+(?:\.\d+)?)\s*(?:@\s*(\S+?))?\s*=\s*(\S+)\s*$")


def slo_from_options(
    *, ttft_p99: str | None = None, tpot_p99: str | None = None, more: Sequence[str] = ()
) -> Slo:
    """The targets that the options state together.

    Raises:
        SpecError: a malformed target, an unknown metric, a percentile outside (0, 100], a
            bound that is zero or has no unit.
    """
    targets = []
    for metric, text in (("ttft", ttft_p99), ("tpot", tpot_p99)):
        if text is not None:
            targets.append(_target(metric, 99.0, "", text, where=f"--{metric}-p99"))
    for item in more:
        match = _FORM.match(item)
        if match is None:
            raise SpecError(
                f"--slo: {item!r} is not of the form metric:p99=bound; "
                "write for example --slo itl:p95=80ms"
            )
        metric, percentile, request_class, bound = match.groups()
        targets.append(
            _target(metric, float(percentile), request_class or "", bound, where=f"--slo {item}")
        )
    return Slo(targets=tuple(targets))


def _target(
    metric: str, percentile: float, request_class: str, bound: str, *, where: str
) -> SloTarget:
    if metric not in METRICS:
        raise SpecError(f"{where}: unknown metric {metric!r}; expected {', '.join(METRICS)}")
    if not 0 < percentile <= 100:
        raise SpecError(f"{where}: percentile {percentile:g} is outside (0, 100]")
    bound_s = parse_quantity(bound, "time", where=where)
    if bound_s <= 0:
        raise SpecError(f"{where}: the bound must be above zero")
    return SloTarget(
        metric=metric,  # type: ignore[arg-type]
        percentile=percentile,
        bound_s=bound_s,
        request_class=request_class,
    )
