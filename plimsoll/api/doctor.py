"""What this installation can do: versions, extras, and what each missing one is for."""

import importlib.util
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from plimsoll import __version__
from plimsoll.report.document import Report, Table

__all__ = ["DoctorAnswer", "doctor"]

_PACKAGES = (
    ("numpy", "core", "arrays"),
    ("scipy", "core", "fits"),
    ("pydantic", "core", "reading files"),
    ("typer", "core", "command line"),
    ("rich", "core", "tables"),
    ("plotext", "core", "pictures in the terminal"),
    ("plotly", "report", "HTML reports (--report out.html)"),
    ("matplotlib", "report", "SVG and PNG figures"),
    ("polars", "frames", "calibrating from tables"),
    ("ray", "cluster", "searches over many machines"),
    ("faiss-cpu", "retrieval", "datastores to retrieve from"),
    ("torch", "torch", "checks that run on real tensors"),
)


_MODULES = {"faiss-cpu": "faiss"}
"""What is imported, where it is not called like the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorAnswer:
    """Package rows: (name, extra, what for, version or "")."""

    rows: tuple[tuple[str, str, str, str], ...]
    python: str
    cores: int

    @property
    def healthy(self) -> bool:
        """Whether everything the core needs is there."""
        return all(version for _, extra, _, version in self.rows if extra == "core")

    def report(self) -> Report:
        """See ``Answer``."""
        missing = [(extra, name) for name, extra, _, version in self.rows if not version]
        title = "All is well" if self.healthy else "Something the core needs is missing"
        return Report(
            title=f"{title}: Plimsoll {__version__}, Python {self.python}, {self.cores} cores",
            tables=(
                Table(
                    title="Packages",
                    columns=("package", "extra", "version", "for"),
                    rows=tuple(
                        (name, extra, version or "not installed", purpose)
                        for name, extra, purpose, version in self.rows
                    ),
                ),
            ),
            notes=tuple(
                f"{name} is not installed; pip install 'plimsoll[{extra}]'"
                for extra, name in missing
            ),
            next_command="plimsoll fit llama-3.1-70b --on 8xH100-SXM",
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        return {
            "format_version": 1,
            "plimsoll": __version__,
            "python": self.python,
            "cores": self.cores,
            "healthy": self.healthy,
            "packages": {name: version or None for name, _, _, version in self.rows},
        }


def doctor() -> DoctorAnswer:
    """Look at this installation; imports nothing heavy."""
    rows = []
    for name, extra, purpose in _PACKAGES:
        version = ""
        if importlib.util.find_spec(_MODULES.get(name, name)) is not None:
            try:
                version = metadata.version(name)
            except metadata.PackageNotFoundError:  # the same module from another package
                version = "another build"
        rows.append((name, extra, purpose, version))
    return DoctorAnswer(
        rows=tuple(rows), python=platform.python_version(), cores=os.cpu_count() or 1
    )
