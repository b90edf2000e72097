"""Write docs/systems.md: the catalog as tables, with the last results beside the claims.

    python scripts/write_systems.py            the page, from the catalog and the stored results
    python scripts/write_systems.py --run      runs every check first and stores what came of it
    python scripts/write_systems.py --run --only fastgen distserve     those; the others stay

Results are stored in docs/systems-results.json; ``--data FOLDER`` names the published
measurements that some checks need.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from plimsoll.catalog import SYSTEMS
from plimsoll.catalog.contract import Check, Claim, System
from plimsoll.catalog.verdicts import Row, band_text
from plimsoll.spec.io import plain, write_text

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "systems.md"
RESULTS = DOCS / "systems-results.json"
Found = dict[tuple[str, str, str], list[dict[str, Any]]]
"""Stored rows by system, claim and title; a row is taken out as the page shows it."""
KEPT = ("system", "claim", "what", "ours", "low", "high", "unit", "how", "verdict", "detail")

INTRODUCTION = """# Systems

Published systems whose claims are recomputed here. This page is written by
`scripts/write_systems.py` from `plimsoll/catalog/`; `plimsoll reproduce ID` runs one entry.

A check says how its value is obtained: **derived** by exact arithmetic, **simulated** on the
system's cluster, or **run** here on real tensors. *Turned off* is the same check with the mechanism
removed: it passes when the value then misses the band. A claim that cannot be obtained as printed
stays on the page with the reason; lines that wait for a part of Plimsoll are listed as waiting.
"""


def page(results: list[dict[str, Any]]) -> str:
    """The whole page."""
    found: Found = {}
    for row in results:  # ablations of several checks may share a title: kept in order
        found.setdefault((row["system"], row["claim"], row["what"]), []).append(row)
    parts = [INTRODUCTION]
    if not results:
        parts.append("No results are stored; `python scripts/write_systems.py --run` makes them.\n")
    parts.append(_overview(results))
    parts += [_section(system, found) for system in SYSTEMS.values()]
    return "\n".join(parts)


def stored() -> list[dict[str, Any]]:
    """The results of the last full run, [] without one."""
    if not RESULTS.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    return rows


def _overview(results: list[dict[str, Any]]) -> str:
    verdicts = ("pass", "fail", "shown", "not reproduced", "waiting", "left out", "not run")
    lines = [
        "| system | source | checks | " + " | ".join(verdicts) + " |",
        "|---|---|---|" + "---|" * len(verdicts),
    ]
    for system in SYSTEMS.values():
        mine = [row["verdict"] for row in results if row["system"] == system.id]
        counts = [str(mine.count(verdict)) if mine else "-" for verdict in verdicts]
        lines.append(
            f"| [{system.id}](#{system.id}) | {_source(system)} | {len(system.checks)} | "
            + " | ".join(counts)
            + " |"
        )
    return "\n".join(lines) + "\n"


def _section(system: System, found: Found) -> str:
    claims = {claim.id: claim for claim in system.claims}
    lines = [
        f"## {system.id}",
        "",
        f"{system.title}. {_source(system)}. {system.summary}",
        "",
        "Lives in " + ", ".join(f"`{room}`" for room in system.rooms) + ".",
        "",
        "| claim | text | printed | where |",
        "|---|---|---|---|",
    ]
    for claim in system.claims:
        text = f"{claim.text} ({claim.setup})" if claim.setup else claim.text
        lines.append(
            f"| {claim.id} | {cell_text(text)} | {_printed(claim)} | {cell_text(claim.where)} |"
        )
    lines += [
        "",
        "| claim | check | printed | accepted | how | ours | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for check in system.checks:
        lines += _check_rows(system, claims[check.claim], check, found)
    if system.not_reproduced:
        lines += ["", "Not reproduced:", ""]
        for claim_id, reason in system.not_reproduced.items():
            lines.append(f"- {claims[claim_id].text}: {reason}")
    if system.waiting:
        lines += ["", "Waiting:", "", *(f"- {line}" for line in system.waiting)]
    return "\n".join(lines) + "\n"


def _check_rows(
    system: System,
    claim: Claim,
    check: Check,
    found: Found,
) -> list[str]:
    band = band_text(check.band, claim)
    runs = [(check.title, _printed(claim), band)]
    if check.ablation is not None:
        title = check.ablation_title or f"{check.title}, turned off"
        runs.append((title, "", f"must miss {band}"))
    lines = []
    for title, printed, accepted in runs:
        rows = found.get((system.id, claim.id, title))
        row = rows.pop(0) if rows else None
        shown = title + (f" (fitted on {check.fitted_on})" if check.fitted_on else "")
        cells = (
            claim.id,
            shown,
            printed,
            accepted,
            check.how,
            ours_text(row),
            row["verdict"] if row else "-",
        )
        lines.append("| " + " | ".join(cell_text(cell) for cell in cells) + " |")
    return lines


def ours_text(row: dict[str, Any] | None) -> str:
    if row is None or row["ours"] is None:
        return "-"
    text = f"{row['ours']:.4g} {row['unit']}".strip()
    if row["low"] is not None and row["high"] is not None:
        text += f" ({row['low']:.4g} to {row['high']:.4g})"
    return text


def _printed(claim: Claim) -> str:
    if claim.value is None:
        return "-"
    shown = f"{claim.value:,.0f}" if abs(claim.value) >= 1e5 else f"{claim.value:g}"
    return f"{shown} {claim.unit}".strip()


def _source(system: System) -> str:
    if not system.arxiv:
        return "[accuracy](accuracy.md)"
    return f"[arXiv {system.arxiv}](https://arxiv.org/abs/{system.arxiv})"


def cell_text(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _run(data: Path | None, only: list[str]) -> None:
    from plimsoll.api.reproduce import reproduce

    answer = reproduce(only, data=data, on_row=lambda row: print(row.system, row.what, row.verdict))
    store(list(answer.rows))


def store(found: list[Row]) -> None:
    """Keep rows in place of what is stored of their systems."""
    fresh = {row.system for row in found}
    rows = [{key: plain(row)[key] for key in KEPT} for row in found]
    rows += [row for row in stored() if row["system"] not in fresh]
    order = list(SYSTEMS)
    rows.sort(key=lambda row: order.index(row["system"]))
    text = json.dumps({"format_version": 1, "rows": rows}, indent=1, ensure_ascii=False)
    write_text(text + "\n", RESULTS)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Write docs/systems.md.")
    parser.add_argument("--run", action="store_true", help="run every check and store the results")
    parser.add_argument("--only", nargs="+", default=[], help="run these systems only")
    parser.add_argument("--data", type=Path, help="folder of published measurements")
    arguments = parser.parse_args()
    if arguments.run:
        _run(arguments.data, arguments.only)
    PAGE.write_text(page(stored()), encoding="utf-8")
    print(PAGE, file=sys.stderr)


if __name__ == "__main__":
    main()
