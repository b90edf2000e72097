"""Fit the operator model's coefficients to measured kernel times, and show how well they do.

    python scripts/calibrate_kernels.py [OPERATOR ...]

Writes library/calibration/kernels/<class>.yaml and the kernel table of docs/accuracy.md. A class
is a device family with measurements, ``synchronous`` (unmeasured families whose matrix units
stall the threads that feed them, like ampere's and ada's), or ``pooled`` (every other).
Coefficients come from the narrowest set of rows that has any: the family's rows of the engine,
the family's, the class's, all; experts, whose kernels several engines share, from rows of the
kernel. The left-out error of a device is that of the same procedure with
all its rows removed, so that only its data sheet and other devices' coefficients are used. With
operators named, only their errors are printed and nothing is written.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np

from plimsoll.cost.efficiency import Calibration, ElementwiseRates, FitError
from plimsoll.spec.io import plain, write_text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts.kernel_experts import KERNELS  # noqa: E402
from scripts.kernel_fit import LONG_S, Model, fit, host_bound, relative_errors  # noqa: E402
from scripts.kernel_models import (  # noqa: E402
    ENGINES,
    MODELS,
    collective_rates,
    rates_of,
)
from scripts.kernel_report import Errors, write_tables  # noqa: E402
from scripts.kernel_tables import DEVICES, TABLES, Group, moe_kernels  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "plimsoll/library/calibration/kernels"
SYNCHRONOUS = ("ampere", "ada", "synchronous")
ASYNCHRONOUS = ("hopper", "blackwell", "pooled")
CLASSES = {
    "ampere": ("ampere",),
    "ada": ("ada",),
    "hopper": ("hopper",),
    "blackwell": ("blackwell",),
    "synchronous": ("volta", "blackwell-rtx"),
    "pooled": (),
}
BY_ENGINE = ("prefill", "decode", "latent_prefill", "latent_decode", "state")
OWN = (*BY_ENGINE, "moe")
"""Operators with coefficients an engine, or (experts) a kernel."""
ALIKE = {
    "prefill": (SYNCHRONOUS,),
    "state": (SYNCHRONOUS,),
    "latent_prefill": (ASYNCHRONOUS,),
    "latent_decode": (SYNCHRONOUS, ASYNCHRONOUS),
}
"""Where kernels are written for one kind of matrix unit, devices of that kind predict better."""
_KERNELS_OF = {"synchronous": ("ampere", "ada"), "pooled": ("hopper", "blackwell")}
SOURCE = "scripts/calibrate_kernels.py on ai-dynamo/aiconfigurator kernel timings, commit 095f58a"

Values = dict[str, float]


@dataclass
class Fitter:
    """Fits of one operator over subsets of its groups, each made once."""

    model: Model
    groups: Sequence[Group]
    made: dict[tuple[int, ...], Values] = field(default_factory=dict)

    def fit(self, chosen: Sequence[Group], prior: Values) -> Values:
        key = tuple(sorted(id(group) for group in chosen))
        if key not in self.made:
            self.made[key] = fit(self.model, chosen, prior)
        return self.made[key]

    def for_class(self, name: str, engine: str, left_out: str = "") -> Values:
        """Coefficients of a device class; ``left_out`` is a device whose rows are unseen."""
        seen = [g for g in self.groups if g.device.name != left_out]
        same_engine = [g for g in seen if not engine or g.engine == engine] or seen
        prior = self.fit(same_engine, self.model.start())
        kinds = ALIKE.get(self.model.name, ())
        alike = next((kind for kind in kinds if name in kind), (name,))
        for families in ((name,), alike):
            pools = (same_engine,) if self.model.name == "moe" else (same_engine, seen)
            for pool in pools:
                chosen = [g for g in pool if g.device.family in families]
                if chosen:
                    return self.fit(chosen, prior)
        return prior


def _usual_floor_s(group: Group, groups: Sequence[Group]) -> float:
    """The median host floor of other devices' groups, for one timed without graph capture."""
    if not group.host_s:
        return 0.0
    others = [g for g in groups if g.host_s and g.device.name != group.device.name]
    same = [g.host_s for g in others if g.engine == group.engine]
    return float(np.median(same or [g.host_s for g in others] or [0.0]))


def calibrate(operator: str) -> tuple[Fitter, list[Errors]]:
    """All fits of an operator, and the errors of every group, in sample and left out."""
    fitter = Fitter(MODELS[operator], TABLES[operator]())
    found = []
    for group in fitter.groups:
        engine = group.engine if operator in OWN else ""
        family = group.device.family
        known = fitter.for_class(family, engine)
        unseen = fitter.for_class(family, engine, left_out=group.device.name)
        inside = relative_errors(fitter.model, group, known, floor_s=group.host_s)
        floor_s = _usual_floor_s(group, fitter.groups)
        outside = relative_errors(fitter.model, group, unseen, floor_s=floor_s)
        found.append(
            Errors(
                operator=operator,
                device=group.device.name,
                engine=group.engine,
                label=group.label,
                in_sample=inside,
                left_out=outside,
                host_bound=host_bound(group),
            )
        )
    return fitter, found


def _error(errors: Sequence[Errors], devices: Sequence[str]) -> FitError:
    chosen = [e for e in errors if e.device in devices] or list(errors)
    inside = np.concatenate([e.in_sample for e in chosen])
    outside = np.concatenate([e.left_out for e in chosen])
    rows = len(inside) if any(e.device in devices for e in errors) else 0
    return FitError(
        num_rows=rows,
        in_sample=round(float(np.median(inside)), 4),
        left_out=round(float(np.median(outside)), 4),
    )


def _class_file(
    name: str, fitters: dict[str, Fitter], errors: dict[str, list[Errors]]
) -> Calibration:
    families = CLASSES[name]
    devices = tuple(sorted(d.name for d in DEVICES.values() if d.family in families))
    by_engine = {
        operator: {
            engine: rates_of(operator, fitters[operator].for_class(name, engine))
            for engine in ENGINES
        }
        for operator in BY_ENGINE
    }
    return Calibration(
        name=name,
        families=families,
        devices=devices,
        gemm=rates_of("gemm", fitters["gemm"].for_class(name, "")),
        collective=collective_rates(
            fitters["all_reduce"].for_class(name, ""), fitters["exchange"].for_class(name, "")
        ),
        moe={
            kernel: rates_of("moe", fitters["moe"].for_class(name, kernel), kernel)
            for kernel in KERNELS
        },
        moe_kernel=moe_kernels(_KERNELS_OF.get(name, families)),
        elementwise=ElementwiseRates(launch_s=2e-6, memory_fraction=0.7),
        errors={operator: _error(found, devices) for operator, found in errors.items()},
        source=SOURCE,
        as_of=date.today().isoformat(),
        **by_engine,
    )


def _short(value: object) -> object:
    """Numbers to four significant digits."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(names: Sequence[str]) -> None:
    """Calibrate the operators named, or all of them and write the results."""
    import yaml

    unknown = sorted(set(names) - set(MODELS))
    if unknown:
        raise SystemExit(f"no operator {', '.join(unknown)}; there are {', '.join(MODELS)}")
    fitters, errors = {}, {}
    for operator in names or MODELS:
        started = time.perf_counter()
        fitters[operator], errors[operator] = calibrate(operator)
        whole = _error(errors[operator], [d.name for d in DEVICES.values()])
        print(
            f"{operator:15} rows >= {LONG_S * 1e6:.0f} us: {whole.num_rows:6}  "
            f"in sample {whole.in_sample:6.1%}  left out {whole.left_out:6.1%}  "
            f"({time.perf_counter() - started:.0f} s)",
            flush=True,
        )
        for device in DEVICES.values():
            one = _error(errors[operator], [device.name])
            if one.num_rows:
                print(f"    {device.name:12} {one.in_sample:6.1%} {one.left_out:6.1%}")
    if names:
        return
    for name in CLASSES:
        data = _short(plain(_class_file(name, fitters, errors)))
        header = "# Written by scripts/calibrate_kernels.py; do not edit.\n"
        text = yaml.safe_dump(data, sort_keys=False, width=100)
        write_text(header + text, OUT / f"{name}.yaml")
    write_tables([e for found in errors.values() for e in found], ROOT / "docs/accuracy.md")


if __name__ == "__main__":
    main(sys.argv[1:])
