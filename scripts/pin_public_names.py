"""Write the list of public names that the tests hold the package to.

    python scripts/pin_public_names.py

Run it after adding, renaming or removing a public name on purpose; the difference then shows
in review. A public name is one in the ``__all__`` of a module without a leading underscore.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINNED = ROOT / "tests" / "architecture" / "public_names.txt"


def public_names() -> list[str]:
    """``module: name`` of every exported name, sorted."""
    found = []
    for path in (ROOT / "plimsoll").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if any(part.startswith("_") for part in parts):
            continue
        found += [f"{'.'.join(parts)}: {name}" for name in exported(path)]
    return sorted(found)


def exported(path: Path) -> list[str]:
    """The literal ``__all__`` of a module, [] if it has none."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


if __name__ == "__main__":
    PINNED.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
    print(f"{len(public_names())} names in {PINNED.relative_to(ROOT)}")
