"""Write docs/policies.md: every policy on five bundled workloads and three clusters.

    python scripts/write_policies.py            the page, from the stored results
    python scripts/write_policies.py --run      ranks them first (about half an hour on two cores)
    python scripts/write_policies.py --run --only L40S     clusters whose name holds that
    python scripts/write_policies.py --run --workloads code agent

Results are stored in docs/policies-results.json, cell by cell.
"""

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from plimsoll.api.compare_policies import PoliciesAnswer, rank_policies
from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.planning.policy_variants import POLICY_NAMES
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.io import write_text
from plimsoll.spec.plan import Parallel, Pool, ServingPlan
from plimsoll.spec.slo import Slo, SloTarget

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "policies.md"
RESULTS = DOCS / "policies-results.json"

CLUSTERS = {
    "llama-3.1-8b on 4xL40S": Pool(device="L40S", replicas=4),
    "llama-3.1-8b on 8xA100-80G": Pool(device="A100-80G", replicas=8),
    "llama-3.1-70b on 16xH100-SXM": Pool(device="H100-SXM", replicas=4, parallel=Parallel(tp=4)),
}
TTFT_S = {"chat": 2.0, "code": 3.0, "summarize": 3.0, "agent": 30.0, "long-chat": 60.0}
TPOT_S = {"chat": 0.1, "code": 0.1, "summarize": 0.1, "agent": 0.3, "long-chat": 0.3}
DURATION_S = {"chat": 200.0, "code": 600.0, "summarize": 200.0, "agent": 600.0, "long-chat": 900.0}

INTRODUCTION = """# Which policy helps where

Written by `scripts/write_policies.py`: `plimsoll compare PLAN --policies all` on five bundled
workloads and three clusters. Each row of a table is one policy put in place of the plan's own
(chunked prefill, least work, prefix caching on), everything else equal; a cell is its goodput over
the plan's, median of three draws of the workload, with the range. **Bold**: better or worse in
every draw by 3 % or more. "-": it cannot run or cannot differ there; the reasons are below each
table.

Goodput is the highest rate that keeps P99 of the first token and P99 of time per token within the
bounds of the column, over 200 simulated seconds (600 for `code` and `agent`, 900 for `long-chat`,
whose rates are low). Where the promise holds and fails in turns as the rate grows, since a few long
prompts or bursts decide P99, the search stops at one of several such rates: in columns marked
*unstable* a policy that changes nothing is found more than a tenth apart, and no cell is bold. All
of it is the simulator's word, whose own error ([accuracy](accuracy.md)) is the same for every row.
Orca reserves a request's longest possible output, which these workloads do not bound.
"""


def cell(cluster: str, workload: str) -> dict[str, Any]:
    """One plan on one workload: ratios and reasons by policy."""
    pool = CLUSTERS[cluster]
    model, fleet = cluster.split(" on ")
    targets = (
        SloTarget(metric="ttft", percentile=99, bound_s=TTFT_S[workload]),
        SloTarget(metric="tpot", percentile=99, bound_s=TPOT_S[workload]),
    )
    plan = ServingPlan(model=model, fleet=fleet, pools=(pool,), slo=Slo(targets=targets))
    spec = WorkloadSpec(text=workload)
    try:
        ranking, bands = rank_policies(plan, spec, duration_s=DURATION_S[workload])
    except InfeasibleError as error:
        return {"cluster": cluster, "workload": workload, "infeasible": str(error), "rows": []}
    answer = PoliciesAnswer(
        plan=plan, plan_path="plan.yaml", workload=spec, ranking=ranking, bands=bands
    )
    data = answer.data()
    own = data["policies"][0]
    rows = []
    for one in data["policies"][1:]:
        ratios = [a / b for a, b in zip(one["draws_per_s"], own["draws_per_s"], strict=False) if b]
        rows.append(
            {
                "name": one["name"],
                "ratios": ratios,
                "effect": one["effect"],
                "why_not": one["why_not"],
            }
        )
    return {
        "cluster": cluster,
        "workload": workload,
        "rate_per_s": data["rate_per_s"],
        "rows": rows,
    }


def page(cells: list[dict[str, Any]]) -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for cluster in CLUSTERS:
        mine = {c["workload"]: c for c in cells if c["cluster"] == cluster}
        if mine:
            parts.append(_section(cluster, mine))
    return "\n".join(parts)


def _section(cluster: str, mine: dict[str, dict[str, Any]]) -> str:
    names = [w for w in TTFT_S if w in mine]
    lines = [f"## {cluster}", ""]
    lines.append("| policy | " + " | ".join(_head(w, mine[w]) for w in names) + " |")
    lines.append("|---|" + "---|" * len(names))
    carried = [
        f"{mine[w]['rate_per_s']:.3g} req/s" if mine[w]["rows"] else "infeasible" for w in names
    ]
    lines.append("| as planned | " + " | ".join(carried) + " |")
    found = {w: {row["name"]: row for row in mine[w]["rows"]} for w in names}
    combined = sorted({n for rows in found.values() for n in rows} - set(POLICY_NAMES))
    for name in (*POLICY_NAMES, *combined):
        rows = [found[w].get(name) for w in names]
        if any(row is not None and row["effect"] == "it is what the plan does" for row in rows):
            continue
        lines.append(
            f"| {name} | "
            + " | ".join(
                _ratio(row, bold=not _unstable(mine[w])) for w, row in zip(names, rows, strict=True)
            )
            + " |"
        )
    lines += ["", "What changes, at the rate that the plan carries:", ""]
    for workload in names:
        if not mine[workload]["rows"]:
            lines.append(f"- **{workload}**: {mine[workload]['infeasible']}")
            continue
        told: dict[str, list[str]] = {}
        for row in mine[workload]["rows"]:
            if row["effect"] not in ("it is what the plan does", "nothing visible at this rate"):
                told.setdefault(row["effect"] or f"not run: {row['why_not']}", []).append(
                    row["name"]
                )
        lines.append(f"- **{workload}**")
        lines += [f"    - {' and '.join(who)}: {what}" for what, who in told.items()]
    return "\n".join([*lines, ""])


def _head(workload: str, cell: dict[str, Any]) -> str:
    bounds = f"{workload}: {TTFT_S[workload]:g} s, {TPOT_S[workload] * 1e3:g} ms"
    return f"{bounds} (*unstable*)" if _unstable(cell) else bounds


def _unstable(cell: dict[str, Any]) -> bool:
    """Whether a policy that changes nothing is found to carry another rate."""
    return any(
        max(row["ratios"]) > 1.1 or min(row["ratios"]) < 0.9
        for row in cell["rows"]
        if row["ratios"] and row["effect"] == "nothing visible at this rate"
    )


def _ratio(row: dict[str, Any] | None, *, bold: bool) -> str:
    if row is None or not row["ratios"]:
        return "-"
    ratios = sorted(row["ratios"])
    low, middle, high = ratios[0], ratios[len(ratios) // 2], ratios[-1]
    shown = f"{middle:.2f} ({low:.2f}-{high:.2f})"
    return f"**{shown}**" if bold and (low > 1.03 or high < 0.97) else shown


def main() -> int:
    """Run what is asked for and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--workloads", nargs="*", default=list(TTFT_S), choices=list(TTFT_S))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    cells: list[dict[str, Any]] = []
    if RESULTS.exists():
        cells = json.loads(RESULTS.read_text(encoding="utf-8"))["cells"]
    if options.run:
        wanted = [(c, w) for c in CLUSTERS if options.only in c for w in options.workloads]
        with ProcessPoolExecutor(options.processes) as pool:
            jobs = {pool.submit(cell, *pair): pair for pair in wanted}
            for job in as_completed(jobs):
                cluster, workload = jobs[job]
                cells = [c for c in cells if (c["cluster"], c["workload"]) != (cluster, workload)]
                cells.append(job.result())
                write_text(json.dumps({"cells": cells}, indent=1) + "\n", RESULTS)
                print(f"{cluster}, {workload}: done", file=sys.stderr, flush=True)
    write_text(page(cells), PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
