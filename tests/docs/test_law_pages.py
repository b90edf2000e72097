"""The pages of laws are those their script writes, from cards and stored results."""

from pathlib import Path

import pytest

from plimsoll.catalog import SYSTEMS
from plimsoll.catalog.contract import Context
from plimsoll.catalog.farseer import overtraining
from plimsoll.laws.cards import CARDS
from plimsoll.laws.compare import compare
from plimsoll.laws.forms import FORMS
from scripts.law_questions import HEADLINES, QUESTIONS
from scripts.write_laws import FOLDER, index, page, pages, stored
from scripts.write_systems import stored as system_results

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the measured points are not here")


def test_the_pages_are_current() -> None:
    written = {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    assert written == pages(), "run python scripts/write_laws.py"


@pytest.mark.parametrize("name", CARDS)
def test_every_page_says_what_a_reader_needs(name: str) -> None:
    text = page(CARDS[name], system_results(), stored())
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    wanted = ["Symbols", "Fitted on", "When not to use it", "Measured error", "Use it", "Source"]
    assert [h for h in headings if h != "## Constants"] == [f"## {title}" for title in wanted]
    for part in CARDS[name].formulas:
        assert part in text
    for one in (*CARDS[name].inputs, *CARDS[name].parameters):
        assert f"| `{one.name}` |" in text


def test_the_index_compares_all_and_answers_by_question() -> None:
    text = index(system_results(), stored())
    asked = {name for _, names in QUESTIONS.values() for name in names.split()}
    assert set(CARDS) <= asked
    for name in CARDS:
        assert f"[{name}]({name}.md)" in text
    for system, title in HEADLINES.values():
        assert title in {check.title for check in SYSTEMS[system].checks}


def test_without_results_a_page_says_so() -> None:
    text = page(CARDS["kaplan"], [], [])
    assert "None stored yet." in text
    assert "None stored yet." not in page(CARDS["kaplan"], [], stored())


def test_every_form_was_measured_on_the_tables_that_have_its_columns() -> None:
    measured = {one["form"] for table in stored() for one in table["forms"]}
    assert set(FORMS) <= measured, "run python scripts/write_laws.py --run --data FOLDER"
    for table in stored():
        for one in table["forms"]:
            assert bool(one["why_not"]) != bool(one["errors"])


@pytest.mark.slow
@needs_data
def test_the_stored_errors_are_what_compare_finds() -> None:
    table = next(one for one in stored() if one["short"] == "RedPajama")
    runs = overtraining(Context(data=DATA), "rpj")
    assert table["points"] == len(runs)
    kept = {one["form"]: one["errors"] for one in table["forms"]}
    for one in compare([FORMS["chinchilla"], FORMS["kaplan"]], runs):
        assert kept[one.form.name] == pytest.approx(one.errors, rel=1e-3)
