"""The verb ``validate``: predictions held against a table of measured deployments."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from plimsoll.cli.options import Json

__all__ = ["validate"]


def validate(
    file: Annotated[Path, Argument(help="CSV of deployments, measured or not.")],
    out: Annotated[
        Path | None, Option(help="Write the rows with their predictions to this CSV file.")
    ] = None,
    json: Json = False,
) -> None:
    """Predict a table of deployments; errors where measured."""
    from plimsoll.api.validate import validate as run_validate
    from plimsoll.cli.output import check_writable, emit

    check_writable(out)
    emit(run_validate(file, out=out), json=json, html=None)
