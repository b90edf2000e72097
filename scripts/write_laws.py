"""Write docs/laws/: a page a law and one table of all, from the cards and measured errors.

    python scripts/write_laws.py                       the pages, from cards and stored results
    python scripts/write_laws.py --run --data FOLDER   measures the forms' held-out errors first

Errors of forms on runs that were held out are those of ``plimsoll laws compare``, stored in
docs/laws/held-out-errors.json; what else was measured is taken from docs/systems-results.json.
Pages of laws that are gone are removed.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plimsoll.catalog import SYSTEMS
from plimsoll.catalog.contract import Check, Context
from plimsoll.catalog.verdicts import band_text
from plimsoll.laws.cards import CARDS, LawCard
from plimsoll.laws.compare import compare
from plimsoll.laws.forms import FORMS
from plimsoll.laws.forms.two_powers import TwoPowers
from plimsoll.report.wording import short_count_text
from plimsoll.spec.io import write_text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts.check_docs import problem  # noqa: E402
from scripts.law_questions import HEADLINES, QUESTIONS  # noqa: E402
from scripts.law_tables import tables  # noqa: E402
from scripts.write_systems import cell_text, ours_text  # noqa: E402
from scripts.write_systems import stored as system_results  # noqa: E402

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "laws"
ERRORS = FOLDER / "held-out-errors.json"
_SPLITS = {"compute": "top tenth of compute", "params": "largest sizes", "folds": "random folds"}
_DIGITS = 6
_SAME = 3
"""Tables of one kind, the first ones; the others are shown apart."""
Rows = list[dict[str, Any]]

INDEX = """# Laws

Every law that `plimsoll laws` knows: what it answers, how far off it was on runs that it had not
seen, and when not to use it. `plimsoll laws list NAME` shows the same on a terminal;
[Spend a training budget](../how-to/laws.md) shows the verbs. This folder is written by
`scripts/write_laws.py`.

## Which law answers which question

"""
SPLITS = """
## Forms of a loss, on the same splits

Mean relative error of the loss of runs that were held out of each fit, as `plimsoll laws compare`
measures it: the tenth of the runs with the most compute (C), the largest fifth of the sizes (N),
and five folds at random (R), which are no extrapolation. The least error of a column is in bold.
`-`: the form refuses, since the points cannot tell its parameters apart, or has other inputs.

"""
OTHER = """
## Other laws, as measured here

One check of each, of those on its page.

"""


def page(card: LawCard, results: Rows, errors: Rows) -> str:
    """The page of a law."""
    parts = [f"# {card.title}", "```text\n" + "\n".join(card.formulas) + "\n```"]
    parts.append(f"Predicts: {card.predicts}.")
    rows = [(one.name, one.unit, "", one.meaning) for one in card.inputs]
    rows += [(one.name, one.unit, one.bounds, one.meaning) for one in card.parameters]
    head = ("symbol", "unit", "fitted within", "meaning")
    parts += ["## Symbols", _table(head, [(f"`{r[0]}`", *r[1:]) for r in rows])]
    parts.append(f"Gradient and fit: {card.gradient}.")
    if card.published:
        parts += ["## Constants", _constants(card)]
    parts += ["## Fitted on", f"{_sentence(card.fitted_on)}."]
    parts += ["## When not to use it", _list(card.not_for.split("; "))]
    parts.append("## Measured error")
    held = list(_held_out(card, errors))
    if held:
        parts.append("Runs held out of the fit, mean relative error of their loss:")
        parts.append(_table(("runs", "points", *_SPLITS.values(), "in the fit"), held))
    checked = list(_checks(card, results))
    if checked:
        parts.append(
            "Checks of the catalog; *must miss* is the same with the mechanism turned off:"
        )
        parts.append(_table(("check", "ours", "accepted", "verdict"), checked))
    waiting = [check.title for _, check in _evidence(card) if check.optional]
    if waiting:
        parts.append("Left out where what they need is missing, a copy of runs or an extra:")
        parts.append(_list(waiting))
    if not held and not checked:
        parts.append("None stored yet.")
    parts += ["## Use it", *_use(card), "## Source", _source(card)]
    return "\n\n".join(parts) + "\n"


def index(results: Rows, errors: Rows) -> str:
    """The page that compares them."""
    rows = []
    for question, (verb, names) in QUESTIONS.items():
        links = [f"[{name}]({name}.md)" for name in names.split() if name in CARDS]
        shown = f"`plimsoll {verb}`" if not problem(verb.split()) else "-"
        rows.append((question, ", ".join(links), shown))
    parts = [INDEX + _table(("question", "laws", "verb"), rows) + "\n", SPLITS]
    first, rest = errors[:_SAME], errors[_SAME:]
    for part in (first, rest):
        if part:
            parts.append(_comparison(part) + "\n\n" + "\n".join(_refusals(part)) + "\n\n")
    parts[-1] = parts[-1].rstrip("\n") + "\n"
    parts.append(OTHER)
    found = []
    for name, (system, title) in HEADLINES.items():
        row = next((r for r in results if r["system"] == system and r["what"] == title), None)
        if row is not None and name in CARDS:
            check = next(c for c in SYSTEMS[system].checks if c.title == title)
            accepted = band_text(check.band, _claim(system, check))
            shown = (f"[{name}]({name}.md)", title, ours_text(row), accepted, row["verdict"])
            found.append(shown)
    parts.append(_table(("law", "measured", "ours", "accepted", "verdict"), found) + "\n")
    return "".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell_text(c) for c in line) + " |" for line in lines)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _constants(card: LawCard) -> str:
    laws = card.published
    rows = [[f"`{name}`", *(f"{law.values[name]:.6g}" for law in laws)] for name in laws[0].values]
    for name in laws[0].box:
        rows.append(
            [
                f"{name} of the fit",
                *(" to ".join(map(short_count_text, law.box[name])) for law in laws),
            ]
        )
    rows.append(["source", *(law.source for law in laws)])
    option = "--law " if card.group == "loss" else ""
    return _table(("", *(f"`{option}{law.name}`" for law in laws)), rows)


def _held_out(card: LawCard, errors: Rows) -> Iterator[tuple[str, ...]]:
    """A row for each table that has the columns of a form."""
    for table in errors:
        for one in table["forms"]:
            if one["form"] != card.name:
                continue
            shown = [_error(one["errors"].get(split)) for split in _SPLITS]
            if one["why_not"]:
                shown[0] = f"refuses: {one['why_not'].replace(table['name'], 'the table')}"
            yield (table["name"], str(table["points"]), *shown, _error(one["rmse_ln"]))


def _error(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _comparison(errors: Rows) -> str:
    """Forms in rows, tables and their splits in columns."""
    forms = [card for card in CARDS.values() if card.group == "loss"]
    columns = [
        (table, split)
        for table in errors
        for split in _SPLITS
        if any(split in one["errors"] for one in table["forms"])
    ]
    least = {
        (table["name"], split): min(
            value for one in table["forms"] if (value := one["errors"].get(split)) is not None
        )
        for table, split in columns
    }
    rows = []
    for card in forms:
        cells = []
        for table, split in columns:
            one = next((f for f in table["forms"] if f["form"] == card.name), None)
            value = None if one is None else one["errors"].get(split)
            best = value is not None and value == least[table["name"], split]
            cells.append(f"**{_error(value)}**" if best else _error(value))
        needs = ", ".join(one.name for one in card.inputs)
        rows.append((f"[{card.name}]({card.name}.md)", str(len(card.parameters)), needs, *cells))
    letters = {"compute": "C", "params": "N", "folds": "R"}
    titles = (f"{table['short']} {letters[split]}" for table, split in columns)
    return _table(("form", "parameters", "inputs", *titles), rows)


def _refusals(errors: Rows) -> Iterator[str]:
    """What the tables are, and who refuses them."""
    for table in errors:
        refused = [one for one in table["forms"] if one["why_not"]]
        why = "; ".join(one["why_not"].replace(table["name"], "the table") for one in refused)
        yield f"- {table['short']}: {table['name']}, {table['points']} points" + (
            f". Refused: {why}" if why else ""
        )


def _claim(system: str, check: Check) -> Any:
    return next(claim for claim in SYSTEMS[system].claims if claim.id == check.claim)


def _checks(card: LawCard, results: Rows) -> Iterator[tuple[str, ...]]:
    """Checks of the card's claims with what came of them, and their ablations."""
    stored: dict[tuple[str, str, str], Rows] = {}
    for row in results:  # ablations of several checks may share a title: kept in order
        stored.setdefault((row["system"], row["claim"], row["what"]), []).append(row)
    for system, check in _evidence(card):
        accepted = band_text(check.band, _claim(system, check))
        runs = [(check.title, accepted)]
        if check.ablation is not None:
            title = check.ablation_title or f"{check.title}, turned off"
            runs.append((title, f"must miss {accepted}"))
        for title, band in runs:
            rows = stored.get((system, check.claim, title))
            row = rows.pop(0) if rows else None
            if row is not None and row["ours"] is not None:
                yield (title, ours_text(row), band, row["verdict"])


def _evidence(card: LawCard) -> Iterator[tuple[str, Check]]:
    """Systems with their checks of the card's claims."""
    for system, claims in card.evidence.items():
        for check in SYSTEMS[system].checks if system in SYSTEMS else ():
            if not claims or check.claim in claims:
                yield system, check


def _exists(command: str) -> bool:
    return bool(command) and not problem(command.split()[1:])


def _use(card: LawCard) -> Iterator[str]:
    if _exists(card.command):
        yield f"```bash\n{card.command}\n```"
    if card.example:
        yield f"```python\n{card.example}```"


def _source(card: LawCard) -> str:
    text = card.source
    for word in card.source.replace(",", " ").split():
        if word[:1].isdigit() and "." in word:
            text = text.replace(f"arXiv {word}", f"[arXiv {word}](https://arxiv.org/abs/{word})")
    lines = [f"{_sentence(text)}. Lives in `plimsoll/{card.module}`."]
    systems = [system for system in card.evidence if system in SYSTEMS]
    if systems:
        lines.append(f"Checked again by `plimsoll reproduce {' '.join(systems)}`.")
    return " ".join(lines)


def measured(data: Path) -> Rows:
    """Held-out errors of all forms on each table; about a minute."""
    found = []
    for short, table in tables(Context(data=data)):
        forms = [
            {
                "form": one.form.name,
                "errors": {name: _rounded(error) for name, error in one.errors.items()},
                "rmse_ln": None if one.fit is None else _rounded(one.fit.rmse),
                "why_not": one.why_not,
            }
            for one in compare((*FORMS.values(), TwoPowers()), table)
        ]
        points = len(table.averaged())
        found.append({"short": short, "name": table.name, "points": points, "forms": forms})
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def stored() -> Rows:
    """Held-out errors of the last run, [] without one."""
    if not ERRORS.exists():
        return []
    rows: Rows = json.loads(ERRORS.read_text(encoding="utf-8"))["tables"]
    return rows


def pages() -> dict[Path, str]:
    """Every page by its path."""
    results, errors = system_results(), stored()
    found = {FOLDER / f"{card.name}.md": page(card, results, errors) for card in CARDS.values()}
    return {FOLDER / "index.md": index(results, errors), **found}


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description="Write docs/laws/.")
    parser.add_argument("--run", action="store_true", help="measure held-out errors first")
    parser.add_argument("--data", type=Path, help="folder of published measurements")
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if arguments.run:
        if arguments.data is None:
            parser.error("--run needs --data FOLDER")
        text = json.dumps({"format_version": 1, "tables": measured(arguments.data)}, indent=1)
        write_text(text + "\n", ERRORS)
    written = pages()
    for path in FOLDER.glob("*.md"):
        if path not in written:
            path.unlink()
    for path, text in written.items():
        write_text(text, path)
    print(f"{len(written)} pages in {FOLDER}", file=sys.stderr)


if __name__ == "__main__":
    main()
