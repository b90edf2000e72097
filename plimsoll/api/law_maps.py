"""Pictures of a law over sizes and tokens: contours of loss, and loss against size at budgets."""

from collections.abc import Callable, Sequence

import numpy as np

from plimsoll.laws.allocate import Allocation, tokens_for
from plimsoll.laws.curves import IsoFlop, contours, iso_flop, levels, optimal_path
from plimsoll.laws.fit import Fit
from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.held_out import axis_of
from plimsoll.laws.law import Law
from plimsoll.laws.table import LossTable
from plimsoll.report.law_pictures import (
    BudgetLine,
    IsoFlopCurve,
    IsoFlopPicture,
    IsoLossPicture,
    LawPoint,
    LawRun,
    LossContour,
)
from plimsoll.report.wording import flops_text, percent_text, short_count_text
from plimsoll.spec.errors import InfeasibleError

__all__ = [
    "budget_line",
    "budgets_of",
    "cheapest_as_good",
    "flop_curves",
    "has_map",
    "law_runs",
    "loss_map",
    "point_of",
    "runs_of",
    "size_claim",
]

AS_GOOD = 0.005
_BEYOND = 5.0  # of the box, how much more is shown
_PATH = 41
_ALIKE = 0.02  # contours of losses this near would hide each other's labels
_SAME = 1.05  # compute within this factor counts as one budget
_NEAR = 1.1
_MOST_BUDGETS = 6
_FEWEST_RUNS = 3  # of a budget, for a curve to show them

Weight = float | Callable[[Floats], Floats]


def has_map(law: Law | Fit) -> bool:
    """Whether the law is one of sizes and tokens alone."""
    return law.form.inputs == ("params", "tokens")


def runs_of(
    table: LossTable, predicted: Sequence[float], *, far: Sequence[int] = ()
) -> tuple[LawRun, ...]:
    """The points of a table, each beside what is ``predicted`` of it; ``far``: by index."""
    _, at = axis_of(table.columns)
    return tuple(
        LawRun(
            line=table.lines[i] if table.lines else 0,
            inputs={name: float(values[i]) for name, values in table.columns.items()},
            x=float(at[i]),
            loss=float(table.loss[i]),
            predicted=loss,
            far=i in far,
        )
        for i, loss in enumerate(predicted)
    )


def law_runs(found: Fit) -> tuple[LawRun, ...]:
    """The points of a fit beside what it says of them."""
    predicted = found.predict(found.table.columns).tolist()
    return runs_of(found.table, predicted, far=found.outliers)


def point_of(one: Allocation, name: str = "") -> LawPoint:
    """A split as a point to draw."""
    return LawPoint(name=name, params=one.params, tokens=one.tokens, loss=one.loss, flops=one.flops)


def cheapest_as_good(law: Law, loss: float) -> LawPoint | None:
    """The split of fewest training FLOPs with that loss; None if it lies out of reach."""
    (n_low, n_high), (d_low, d_high) = law.box["params"], law.box["tokens"]
    ((params, tokens),) = contours(
        law, [loss], num=4001, params=(n_low / 10, n_high * 10), tokens=(d_low / 10, d_high * 10)
    )
    least = int(np.argmin(params * tokens)) if len(params) else 0
    if not 0 < least < len(params) - 1:
        return None
    size, token = float(params[least]), float(tokens[least])
    return LawPoint(
        name="fewest FLOPs of this loss", params=size, tokens=token, loss=loss,
        flops=6 * size * token,
    )  # fmt: skip


def loss_map(
    law: Law,
    *,
    title: str = "",
    points: Sequence[LawPoint] = (),
    budgets: Sequence[tuple[str, Floats, Floats]] = (),
    runs: Sequence[LawRun] = (),
    notes: Sequence[str] = (),
) -> IsoLossPicture:
    """Contours of loss with the compute-optimal line; ``budgets``: (name, params, tokens) of
    splits that cost the same; a contour goes through the first of ``points``. Without a title, it
    is what the compute-optimal line says."""
    ranges = {}
    for name in ("params", "tokens"):
        low, high = law.box[name]
        given = [getattr(one, name) for one in points]
        ranges[name] = (min([low, *given]) / 1.6, max([high * _BEYOND, *(2 * g for g in given)]))
    (n_low, n_high), (d_low, d_high) = ranges["params"], ranges["tokens"]
    flops = np.geomspace(6 * n_low * d_low, 6 * n_high * d_high, _PATH)
    optimal = [
        point_of(one)
        for one in optimal_path(law, flops, stretches=(10.0, 100.0))
        if n_low <= one.params <= n_high and d_low <= one.tokens <= d_high
    ]
    through = [one.loss for one in points[:1]]
    drawn = [
        *(
            v
            for v in levels(law, params=ranges["params"], tokens=ranges["tokens"])
            if all(abs(v / u - 1) > _ALIKE for u in through)
        ),
        *through,
    ]
    drawn.sort(reverse=True)
    found = contours(law, drawn, params=ranges["params"], tokens=ranges["tokens"])
    lines = []
    for name, params, tokens in budgets:
        shown = (params >= n_low) & (params <= n_high) & (tokens >= d_low) & (tokens <= d_high)
        lines.append(
            BudgetLine(
                name=name,
                params=tuple(params[shown].tolist()),
                tokens=tuple(tokens[shown].tolist()),
            )
        )
    return IsoLossPicture(
        title=title or _ratio_claim(law),
        unit=law.unit,
        params=ranges["params"],
        tokens=ranges["tokens"],
        box_params=law.box["params"],
        box_tokens=law.box["tokens"],
        contours=tuple(
            LossContour(loss=loss, params=tuple(sizes.tolist()), tokens=tuple(counts.tolist()))
            for loss, (sizes, counts) in zip(drawn, found, strict=True)
            if len(sizes) > 1
        ),
        optimal=tuple(optimal),
        budgets=tuple(lines),
        points=tuple(points),
        runs=tuple(runs),
        notes=tuple(notes),
    )


def _ratio_claim(law: Law) -> str:
    """Tokens a parameter at both ends of the box."""
    (n_low, n_high), (d_low, d_high) = law.box["params"], law.box["tokens"]
    decades = range(int(np.ceil(np.log10(6 * n_low * d_low))), int(np.log10(6 * n_high * d_high)))
    ends = optimal_path(law, [10.0**k for k in decades])
    inside = [
        one for one in ends if n_low <= one.params <= n_high and d_low <= one.tokens <= d_high
    ]
    if not inside:
        return "No compute-optimal split lies where the law was fitted"
    said = [
        f"{one.tokens_per_param:.3g} for {flops_text(one.flops)} FLOPs"
        for one in ((inside[0], inside[-1]) if len(inside) > 1 else inside)
    ]
    return f"Compute-optimal tokens a parameter: {', '.join(said)}"


def budget_line(
    law: Law, flops: float, *, serve_tokens: float = 0.0, serve_weight: Weight = 1.0
) -> tuple[Floats, Floats]:
    """Splits that cost ``flops``: sizes and tokens, far beyond the box."""
    low, high = law.box["params"]
    sizes = np.geomspace(low / 1e3, high * 1e3, 601)
    tokens = tokens_for(sizes, flops, serve_tokens, serve_weight)
    bought = tokens > 0
    return sizes[bought], tokens[bought]


def budgets_of(found: Fit) -> list[float]:
    """Budgets to draw for a fit: those at which three sizes or more were run, if there are two
    such; else powers of ten inside the compute of the runs."""
    compute, params = found.table.compute, found.table.column("params")
    order = np.argsort(compute, kind="stable")
    groups: list[list[int]] = []
    for i in order.tolist():
        if groups and compute[i] <= _SAME * compute[groups[-1][0]]:
            groups[-1].append(i)
        else:
            groups.append([i])
    made = [
        float(np.median(compute[group]))
        for group in groups
        if len(np.unique(params[group])) >= _FEWEST_RUNS
    ]
    if len(made) < 2:
        low, high = np.log10(compute.min()), np.log10(compute.max())
        made = [10.0**k for k in range(int(np.ceil(low)), int(np.floor(high)) + 1)]
        made = made or [float(np.sqrt(compute.min() * compute.max()))]
    kept = np.unique(np.linspace(0, len(made) - 1, min(len(made), _MOST_BUDGETS)).round())
    return [made[int(k)] for k in kept]


def flop_curves(
    law: Law,
    budgets: Sequence[tuple[str, float, float, Weight]],
    *,
    stretch: float = 10.0,
    runs: Sequence[LawRun] = (),
    title: str = "",
) -> IsoFlopPicture | None:
    """A curve for each (name, flops, serve tokens, serve weight); those with nothing in reach are
    left out and named. None if none is left."""
    curves: list[IsoFlopCurve] = []
    notes = []
    for name, flops, serve_tokens, weight in budgets:
        try:
            found = iso_flop(
                law, flops, serve_tokens=serve_tokens, serve_weight=weight, stretch=stretch
            )
        except InfeasibleError:
            notes.append(f"{name}: no split in reach")
            continue
        if found.least.edge:
            notes.append(f"{name}: no minimum inside, the curve ends at {found.least.edge}")
        curves.append(_curve(name, found, serve_tokens > 0, runs))
    if not curves:
        return None
    return IsoFlopPicture(
        title=title
        or f"The best size grows from {short_count_text(curves[0].least.params)} to "
        f"{short_count_text(curves[-1].least.params)} over these budgets",
        unit=law.unit,
        curves=tuple(curves),
        box_params=law.box["params"],
        notes=tuple(notes),
    )


def _curve(name: str, found: IsoFlop, serving: bool, runs: Sequence[LawRun]) -> IsoFlopCurve:
    flops = found.least.flops
    mine = tuple(run for run in runs if flops / _NEAR <= run.x <= flops * _NEAR)
    return IsoFlopCurve(
        name=name,
        flops=flops,
        params=tuple(found.params.tolist()),
        tokens=tuple(found.tokens.tolist()),
        losses=tuple(found.loss.tolist()),
        least=point_of(found.least, name),
        edge=found.least.edge,
        serving=serving,
        runs=mine if len(mine) >= _FEWEST_RUNS else (),
    )


def size_claim(found: IsoFlop, what: str) -> str:
    """How far from the best a size may lie, in words; or that there is no best."""
    if found.least.edge:
        return f"{what}, loss still falls at {found.least.edge}"
    low, high = found.within(AS_GOOD)
    return (
        f"{what}, sizes from {short_count_text(low)} to {short_count_text(high)} lie within "
        f"{percent_text(AS_GOOD)} of the least loss"
    )
