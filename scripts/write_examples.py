"""Write the outputs shown in the documentation: every one is what its command prints.

    python scripts/write_examples.py             all pages
    python scripts/write_examples.py docs/a.md   some

A ```bash block below ``<!-- run -->`` is run in a folder that the blocks of its page share.
``<!-- output -->`` above the ```text block that follows it has that block replaced by the
standard output; ``<!-- output 1-9 20-24 -->`` keeps those lines. ``<!-- output of: COMMAND -->``
names another command, for examples that are not run as they stand.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(
    r"(?P<run><!-- run -->\s*\n```bash\n(?P<commands>.*?)```)"
    r"|(?P<head><!-- output(?P<ranges>(?: \d+-\d+)*)(?: of: (?P<other>[^\n]*?))? -->\s*\n```text\n)"
    r"(?P<old>.*?)(?=```)",
    re.DOTALL,
)


def page_with_outputs(text: str) -> str:
    """A page with its outputs replaced by what the commands print now."""
    with tempfile.TemporaryDirectory() as folder:
        printed = ""

        def replaced(match: re.Match[str]) -> str:
            nonlocal printed
            if match["run"]:
                printed = _printed(match["commands"], folder)
                return match["run"]
            shown = _printed(match["other"], folder) if match["other"] else printed
            return match["head"] + _chosen(shown, match["ranges"])

        return _BLOCK.sub(replaced, text)


def _printed(commands: str, folder: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip("\n") + "\n"


def _chosen(text: str, ranges: str) -> str:
    if not ranges:
        return text
    lines = text.splitlines()
    parts = []
    for span in ranges.split():
        first, last = map(int, span.split("-"))
        parts.append("\n".join(lines[first - 1 : last]).strip("\n"))
    end = "\n..." if last < len(lines) else ""
    return "\n...\n".join(parts) + end + "\n"


def main() -> None:
    """Rewrite the pages named, all by default."""
    named = [Path(name) for name in sys.argv[1:]]
    for page in named or sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        text = page.read_text(encoding="utf-8")
        new = page_with_outputs(text)
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(page)


if __name__ == "__main__":
    main()
