"""The verb ``calibrate``: measure the machine at hand into a hardware file."""

from pathlib import Path
from typing import Annotated

from typer import Option

from plimsoll.cli.options import Json, Quiet

__all__ = ["calibrate"]


def calibrate(
    device: Annotated[str, Option(help="What to measure: cpu or cuda:0.")] = "cpu",
    dtype: Annotated[str, Option(help="Format models run in: fp32 or bf16.")] = "fp32",
    out: Annotated[Path, Option(help="Hardware file to write.")] = Path("here.yaml"),
    quick: Annotated[bool, Option("--quick", help="Tiny sizes in seconds, to try it.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Measure this machine into a hardware file."""
    import sys

    from plimsoll.api.calibrate import calibrate as run_calibrate
    from plimsoll.cli.output import check_writable, dtype_option, emit
    from plimsoll.spec.errors import SpecError

    if out.suffix not in (".yaml", ".yml", ".json"):
        raise SpecError(f"--out {out}: expected a name that ends in .yaml, .yml or .json")
    check_writable(out)
    found = dtype_option(dtype, "--dtype")
    assert found is not None
    answer = run_calibrate(
        device,
        found,
        out=out,
        quick=quick,
        say=(lambda _: None) if quiet else (lambda t: print(f"measuring: {t}", file=sys.stderr)),
    )
    emit(answer, json=json, html=None)
