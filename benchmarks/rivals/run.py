"""Run public rival tools beside Plimsoll and print their error and time beside ours.

    python benchmarks/rivals/run.py                      everything
    python benchmarks/rivals/run.py accuracy --rows 176  measured rows: error, coverage, time
    python benchmarks/rivals/run.py search               one plan search: time
    python benchmarks/rivals/run.py hour --vidur PATH    one simulated hour: time

Each rival is installed from the package index into an environment of its own under --cache. What
cannot be installed or run is left out with one line that says why. See the README beside this.
"""

import argparse
import os
import platform
from pathlib import Path

import accuracy
import hour
import search
import venvs

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", nargs="?", default="all", choices=["accuracy", "search", "hour", "all"]
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--rows", type=int, default=176, help="measured rows, stratified (176)")
    size.add_argument("--all", action="store_true", help="every measured row; takes hours")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (0)")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats (5)")
    parser.add_argument("--cache", type=Path, default=venvs.CACHE, help="rivals' environments")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of silicon/ and traces/")
    parser.add_argument("--ours", type=Path, help="predictions to use as Plimsoll's")
    parser.add_argument("--keep", type=Path, help="folder for each tool's predictions")
    parser.add_argument("--vidur", type=Path, help="checkout of microsoft/vidur")
    return parser.parse_args()


def main() -> None:
    """Print each part that was asked for."""
    told = arguments()
    cache = told.cache.expanduser().resolve()
    cache.mkdir(parents=True, exist_ok=True)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        + ", ".join(name for names in venvs.REQUIREMENTS.values() for name in names)
    )
    if told.what in ("accuracy", "all"):
        print("\n== accuracy")
        accuracy.report(
            accuracy.Asked(
                file=told.data / "silicon" / "silicon_train.csv",
                cache=cache,
                num_rows=None if told.all else told.rows,
                seed=told.seed,
                ours=told.ours,
                keep=told.keep,
            )
        )
    if told.what in ("search", "all"):
        print("\n== search")
        search.report(cache, told.repeats)
    if told.what in ("hour", "all"):
        print("\n== hour")
        trace = told.data / "traces" / "azure_llm_2023_conv.csv"
        hour.report(trace, cache, told.vidur, told.repeats)


if __name__ == "__main__":
    main()
