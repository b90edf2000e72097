"""Outputs in the documentation come from commands; the README shows what the Makefile runs."""

import re
from pathlib import Path

from scripts.check_docs import pages
from scripts.write_examples import page_with_outputs

ROOT = Path(__file__).resolve().parents[2]


def test_outputs_are_replaced() -> None:
    page = (
        "<!-- run -->\n```bash\nseq 5\n```\n\n<!-- output 1-2 4-4 -->\n```text\nold\n```\n\n"
        "<!-- output of: echo hello -->\n```text\nold\n```\n"
    )
    assert page_with_outputs(page) == (
        "<!-- run -->\n```bash\nseq 5\n```\n\n"
        "<!-- output 1-2 4-4 -->\n```text\n1\n2\n...\n4\n...\n```\n\n"
        "<!-- output of: echo hello -->\n```text\nhello\n```\n"
    )


def test_no_output_is_empty() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        assert re.search(r"```text\n```", text) is None, page


def test_the_readme_opens_with_the_demo_of_the_makefile() -> None:
    demo = re.search(r"^demo:.*\n\t\$\(BIN\)/(plimsoll .*)$", (ROOT / "Makefile").read_text(), re.M)
    assert demo is not None
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.index("make demo") < readme.index("make test") < 200
    assert f"<!-- output of: {demo.group(1)} -->" in readme
