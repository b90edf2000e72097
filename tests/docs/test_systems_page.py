"""The page of systems is the one its script writes, from the catalog and the stored results."""

from plimsoll.catalog import SYSTEMS
from scripts.write_systems import PAGE, page, stored


def test_the_page_is_current() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(stored()), "run python scripts/write_systems.py"


def test_every_system_and_check_is_on_it() -> None:
    text = page(stored())
    for system in SYSTEMS.values():
        assert f"\n## {system.id}\n" in text
        rows = [line for line in text.splitlines() if line.startswith("| ")]
        for check in system.checks:
            assert any(f"| {check.title}" in row for row in rows), check.title


def test_what_is_not_reproduced_stays_with_its_reason() -> None:
    text = page([])
    for system in SYSTEMS.values():
        for reason in system.not_reproduced.values():
            assert reason in text


def test_ablations_that_share_a_title_keep_their_own_values() -> None:
    rows = stored()
    shared = [
        [row for row in rows if (row["system"], row["claim"], row["what"]) == key]
        for key in {(row["system"], row["claim"], row["what"]) for row in rows}
    ]
    values = {f"{row['ours']:.4g}" for same in shared if len(same) > 1 for row in same}
    assert len(values) > 5 and all(f" {value}" in page(rows) for value in values)
