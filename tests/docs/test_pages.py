"""The documentation holds: links lead somewhere, commands exist, marked examples run."""

from pathlib import Path

import pytest

from scripts.check_docs import (
    anchors,
    bad_commands,
    broken_links,
    commands,
    failed_runs,
    pages,
    split,
)

PAGE = """# One page
See [that](other.md#two-words), [gone](gone.md), [no heading](other.md#three), `[code](x.md)`,
[site](https://example.org/x), [here](#one-page).

<!-- run -->

```bash
$ echo hello > made.txt
plimsoll plan x \\
  --on 8xH100 | tee out.txt  # comment
```

```text
plimsoll nothing
```
"""


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken_links(page)) == []


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.name)
def test_commands_exist(page: Path) -> None:
    assert list(bad_commands(page)) == []


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(), ids=lambda p: p.name)
def test_marked_examples_run(page: Path) -> None:
    assert list(failed_runs(page)) == []


def test_a_broken_page_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    (tmp_path / "other.md").write_text("## Two words\n\n```\n# three\n```\n")
    found = list(broken_links(page))
    assert [line.split(": ", 1)[1] for line in found] == [
        "gone.md: no such file",
        "other.md#three: no such heading",
    ]


def test_blocks_and_their_commands() -> None:
    _, blocks = split(PAGE)
    assert [(b.language, b.run) for b in blocks] == [("bash", True), ("text", False)]
    assert list(commands(blocks[0])) == [(9, ["plan", "x", "--on", "8xH100"])]


def test_a_failing_example_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- run -->\n```bash\nexit 3\n```\n")
    assert [line.rpartition("exit 3")[1] for line in failed_runs(page)] == ["exit 3"]
    page.write_text("<!-- run -->\n```bash\ntrue\n```\n\n```bash\nexit 3\n```\n")
    assert list(failed_runs(page)) == []


def test_repeated_headings_get_numbers() -> None:
    assert anchors("# A `b`\n# A b\n") == {"a-b", "a-b-1"}
