"""Check the documentation: links, commands in examples, and the examples marked to run.

    python scripts/check_docs.py            links and commands
    python scripts/check_docs.py --run      and runs the examples marked with <!-- run -->

A relative link must lead to a file, and its #anchor to a heading there. In ```bash blocks
every ``plimsoll`` line must name an existing verb and existing options. A block below the
line ``<!-- run -->`` is run in an empty folder and must succeed; blocks of one page share it.
Leaves out: links to other sites, and what commands print.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUN_MARK = "<!-- run -->"
_FENCE = re.compile(r"^(```+|~~~+)\s*(\S*)")
_LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_SHELLS = {"bash", "sh", "console", "shell"}
_RUN_TIMEOUT_S = 300


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines, the line it starts on, whether it is to run."""

    language: str
    lines: tuple[str, ...]
    line: int
    run: bool


def pages(root: Path = ROOT) -> list[Path]:
    """Markdown files at the top and below docs."""
    return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")])


def split(text: str) -> tuple[list[tuple[int, str]], list[Block]]:
    """Prose lines with their numbers, and fenced blocks."""
    prose: list[tuple[int, str]] = []
    blocks: list[Block] = []
    fence, language, start, held, last = "", "", 0, list[str](), ""
    for number, line in enumerate(text.splitlines(), 1):
        match = _FENCE.match(line.strip())
        if fence:
            if match and match.group(1).startswith(fence) and not match.group(2):
                blocks.append(Block(language, tuple(held), start, last == RUN_MARK))
                fence, last = "", ""
            else:
                held.append(line)
        elif match:
            fence, language, start, held = match.group(1), match.group(2), number, []
        else:
            prose.append((number, line))
            last = line.strip() or last
    return prose, blocks


def anchors(text: str) -> set[str]:
    """The #anchors of a page's headings, as common renderers make them."""
    found: set[str] = set()
    for _, line in split(text)[0]:
        if line.startswith("#"):
            title = line.lstrip("#").strip().lower().replace("`", "")
            slug = re.sub(r"[^\w\- ]", "", title).replace(" ", "-")
            count = sum(1 for old in found if re.fullmatch(re.escape(slug) + r"(-\d+)?", old))
            found.add(f"{slug}-{count}" if count else slug)
    return found


def broken_links(page: Path) -> Iterator[str]:
    """A sentence for each relative link of a page that leads nowhere."""
    text = page.read_text(encoding="utf-8")
    for number, line in split(text)[0]:
        for target in _LINK.findall(re.sub(r"`[^`]*`", "", line)):
            if _ELSEWHERE.match(target):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            if not path.exists():
                yield f"{page}:{number}: {target}: no such file"
            elif (
                anchor
                and path.suffix == ".md"
                and anchor not in anchors(path.read_text(encoding="utf-8"))
            ):
                yield f"{page}:{number}: {target}: no such heading"


def commands(block: Block) -> Iterator[tuple[int, list[str]]]:
    """(line, words) of each ``plimsoll`` command of a shell block; continued lines are joined."""
    pending, start = "", 0
    for offset, line in enumerate(block.lines, 1):
        line = line.strip().removeprefix("$ ")
        start = start if pending else block.line + offset
        pending += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        whole, pending = pending, ""
        if whole.startswith("plimsoll"):
            lexer = shlex.shlex(whole, posix=True, punctuation_chars="|;&<>")
            lexer.whitespace_split, lexer.commenters = True, "#"
            words = list(lexer)
            end = next((i for i, w in enumerate(words) if set(w) <= set("|;&<>")), len(words))
            yield start, words[1:end]


def bad_commands(page: Path) -> Iterator[str]:
    """A sentence for each example whose verb or option does not exist."""
    for block in split(page.read_text(encoding="utf-8"))[1]:
        if block.language not in _SHELLS:
            continue
        for number, words in commands(block):
            wrong = problem(words)
            if wrong:
                yield f"{page}:{number}: plimsoll {' '.join(words)}: {wrong}"


def problem(words: list[str]) -> str:
    """What is wrong with the verb and options of a command, "" if nothing is."""
    from typer.main import get_command

    from plimsoll.cli.main import app

    command: Any = get_command(app)
    words = list(words)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        verb = words.pop(0)
        if verb not in command.commands:
            return f"no verb {verb!r}; there are {', '.join(sorted(command.commands))}"
        command = command.commands[verb]
    known = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)}
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known | {"--help"}:
            return f"no option {flag!r}"
    return ""


def failed_runs(page: Path) -> Iterator[str]:
    """A sentence for each example marked to run that fails."""
    marked = [b for b in split(page.read_text(encoding="utf-8"))[1] if b.run]
    if not marked:
        return
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        for block in marked:
            script = "\n".join(line.removeprefix("$ ") for line in block.lines)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=folder,
                env=os.environ | {"PATH": path},
                capture_output=True,
                text=True,
                timeout=_RUN_TIMEOUT_S,
                check=False,
            )
            if done.returncode:
                yield f"{page}:{block.line}: exit {done.returncode}: {done.stderr.strip()[-500:]}"


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    parser = argparse.ArgumentParser(description="Check links and examples of the documentation.")
    parser.add_argument("--run", action="store_true", help="also run the examples marked to run")
    arguments = parser.parse_args()
    problems = []
    for page in pages():
        problems += broken_links(page)
        problems += bad_commands(page)
        if arguments.run:
            problems += failed_runs(page)
    print(*problems, sep="\n" if problems else "")
    print(f"{len(pages())} pages, {len(problems)} problems", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
