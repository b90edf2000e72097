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
