"""The command line: thin over ``plimsoll.api``, one function a verb.

stdout carries the result, stderr the talk. Exit codes: 0 answered, 1 internal, 2 usage,
3 infeasible, 4 unsupported. Heavy imports stay inside the verbs, so that help is quick.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperGroup

from plimsoll.cli.batch import batch
from plimsoll.cli.calibrate import calibrate
from plimsoll.cli.laws import laws_app
from plimsoll.cli.options import (
    Figures,
    Json,
    Model,
    On,
    Quiet,
    Rate,
    ReportFile,
    Seed,
    SloOption,
    TpotP99,
    TtftP99,
    WorkloadOption,
)
from plimsoll.cli.peak import peak
from plimsoll.cli.plan_overlap import plan_overlap
from plimsoll.cli.serve import serve
from plimsoll.cli.tinylm import tinylm_app
from plimsoll.cli.trace import trace_app
from plimsoll.cli.validate import validate
from plimsoll.spec.errors import InfeasibleError, PlimsollError

__all__ = ["app", "run"]

# Some versions of typer bring their own click, so its root of errors is found from a leaf.
_USAGE_ERROR = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

_INTERRUPTED = 130

_OVERLAP = "plan overlap"


class _Verbs(TyperGroup):
    """Finds ``plan overlap``, a verb of two words beside the verb ``plan``, which takes a model."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See click."""
        if " ".join(args[:2]) == _OVERLAP:
            args = [_OVERLAP, *args[2:]]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="plimsoll",
    cls=_Verbs,
    help="What will limited capacity carry? Fit, plan, simulate and export serving.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show tracebacks of internal errors.")] = False,
) -> None:
    if version:
        from plimsoll import __version__

        print(__version__)
        raise typer.Exit
    if debug:
        os.environ["PLIMSOLL_DEBUG"] = "1"


@app.command()
def fit(
    model: Model,
    on: On,
    context: Annotated[str | None, Option(help="Tokens a request holds, as in 8k.")] = None,
    weights: Annotated[str | None, Option(help="Weight format, as in fp8.")] = None,
    kv: Annotated[str | None, Option(help="KV cache format, as in fp8.")] = None,
    memory_fraction: Annotated[float, Option(help="Share of memory the engine may take.")] = 0.9,
    streams: Annotated[int, Option(help="Parallel streams the weights are for.")] = 1,
    report: ReportFile = None,
    figures: Figures = None,
    json: Json = False,
) -> None:
    """Does it fit, how should it be cut, what is the most it does?"""
    from plimsoll.api.fit import fit as run_fit
    from plimsoll.cli.output import check_folder, check_writable, dtype_option, emit
    from plimsoll.spec.units import parse_count

    check_writable(report)
    check_folder(figures)
    answer = run_fit(
        model,
        on,
        context_tokens=parse_count(context, where="--context") if context else 0,
        weight_dtype=dtype_option(weights, "--weights"),
        kv_dtype=dtype_option(kv, "--kv"),
        memory_fraction=memory_fraction,
        streams=streams,
    )
    emit(answer, json=json, html=report, figures=figures)


@app.command()
def plan(
    model: Model,
    on: On,
    workload: WorkloadOption = "chat",
    rate: Rate = None,
    ttft_p99: TtftP99 = None,
    tpot_p99: TpotP99 = None,
    slo: SloOption = None,
    objective: Annotated[
        str, Option(help="goodput (per GPU), cost, energy or latency.")
    ] = "goodput",
    power: Annotated[str | None, Option(help="Limit on device power, as in 20kW.")] = None,
    budget: Annotated[str | None, Option(help="Limit on price, as in 40usd/h.")] = None,
    settings: Annotated[
        list[str] | None, Option("--set", help="Deeper settings, as in weights=fp8 (see docs).")
    ] = None,
    out: Annotated[Path | None, Option(help="Write the chosen plan to this file.")] = None,
    seed: Seed = 0,
    jobs: Annotated[int, Option(help="Processes to search with; 0 takes every core.")] = 0,
    report: ReportFile = None,
    figures: Figures = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Find the plan that carries most and keeps the promise."""
    from plimsoll.api.plan import plan as run_plan
    from plimsoll.api.plan_settings import objective_option, space_options
    from plimsoll.api.slo_options import slo_from_options
    from plimsoll.cli.output import check_folder, check_writable, emit, jobs_option, workload_spec
    from plimsoll.cli.progress import progress_line

    check_writable(out)
    check_writable(report)
    check_folder(figures)
    options, ray = space_options(settings or (), power=power, budget=budget)
    with progress_line(quiet) as progress:
        answer = run_plan(
            model,
            on,
            workload_spec(workload, rate=rate),
            slo=slo_from_options(ttft_p99=ttft_p99, tpot_p99=tpot_p99, more=slo or ()),
            objective=objective_option(objective),
            options=options,
            seed=seed,
            jobs=jobs_option(jobs),
            ray=ray,
            progress=progress,
        )
    from dataclasses import replace

    answer = replace(answer, asked=tuple(sys.argv[1:]))
    if out is not None:
        from plimsoll.spec.io import write

        write(answer.plan, out)
        answer = replace(answer, plan_path=str(out))
    emit(answer, json=json, html=report, figures=figures)


@app.command()
def simulate(
    plan: Annotated[Path, Argument(help="Plan file, or a run folder to repeat.")],
    workload: Annotated[
        str | None, Option("--workload", "-w", help="Bundled workload, trace file, or 4000/500.")
    ] = None,
    rate: Rate = None,
    requests: Annotated[int, Option(help="Requests to draw; 0 takes the workload's own.")] = 0,
    in_flight: Annotated[int, Option(help="Closed loop with that many in flight.")] = 0,
    ttft_p99: TtftP99 = None,
    tpot_p99: TpotP99 = None,
    slo: SloOption = None,
    seed: Annotated[int | None, Option(help="Seed of every random stream; 0 if not given.")] = None,
    sweep: Annotated[
        bool, Option("--sweep", help="Instead, goodput and latency against the rate.")
    ] = False,
    out: Annotated[Path | None, Option(help="Folder for the run record.")] = None,
    trace: Annotated[Path | None, Option(help="Write a Chrome/Perfetto trace.")] = None,
    report: ReportFile = None,
    figures: Figures = None,
    json: Json = False,
) -> None:
    """Serve a workload on the simulated clock: what users see."""
    from plimsoll.api.simulate import simulate_file
    from plimsoll.api.slo_options import slo_from_options
    from plimsoll.cli.output import check_folder, check_writable, emit, workload_spec
    from plimsoll.spec.errors import SpecError

    check_writable(trace)
    check_writable(report)
    check_folder(figures)
    promise = slo_from_options(ttft_p99=ttft_p99, tpot_p99=tpot_p99, more=slo or ())
    if sweep:
        if out is not None or trace is not None or in_flight:
            raise SpecError("--sweep: takes no --out, --trace or --in-flight; leave them out")
        from plimsoll.api.load_curve import sweep_file

        traffic = workload_spec(workload or "chat", rate=rate, requests=requests)
        curve = sweep_file(plan, traffic, seed=seed or 0, slo=promise)
        emit(curve, json=json, html=report, figures=figures)
        return
    answer = simulate_file(
        plan,
        None
        if workload is None
        else workload_spec(workload, rate=rate, requests=requests, in_flight=in_flight),
        seed=seed,
        slo=promise if promise.targets else None,
        out=out,
    )
    if trace is not None:
        answer.write_trace(trace)
    emit(answer, json=json, html=report, figures=figures)


@app.command()
def compare(
    sides: Annotated[
        list[Path], Argument(help="Plan files or run folders, two or more; one with --policies.")
    ],
    workload: Annotated[
        str | None, Option("--workload", "-w", help="What plans are simulated on.")
    ] = None,
    policies: Annotated[
        str | None, Option(help="Rank policies on one plan: all, or names as in freeness,orca.")
    ] = None,
    rate: Rate = None,
    ttft_p99: TtftP99 = None,
    tpot_p99: TpotP99 = None,
    slo: SloOption = None,
    seed: Seed = 0,
    report: ReportFile = None,
    figures: Figures = None,
    json: Json = False,
) -> None:
    """Plans or runs side by side, or every policy on one plan."""
    from plimsoll.api.compare import compare as run_compare
    from plimsoll.api.slo_options import slo_from_options
    from plimsoll.cli.output import check_folder, check_writable, emit, workload_spec
    from plimsoll.spec.errors import SpecError

    check_writable(report)
    check_folder(figures)
    promise = slo_from_options(ttft_p99=ttft_p99, tpot_p99=tpot_p99, more=slo or ())
    if policies is not None:
        from plimsoll.api.compare_policies import compare_policies

        if len(sides) != 1 or workload is None:
            raise SpecError(
                f"compare --policies: {len(sides)} plans and "
                f"{'no' if workload is None else 'a'} workload given; name one plan file and a "
                "--workload"
            )
        ranked = compare_policies(
            sides[0],
            workload_spec(workload, rate=rate),
            policies=policies,
            seed=seed,
            slo=promise if promise.targets else None,
        )
        emit(ranked, json=json, html=report, figures=figures)
        return
    answer = run_compare(
        sides,
        None if workload is None else workload_spec(workload, rate=rate),
        seed=seed,
        slo=promise if promise.targets else None,
    )
    emit(answer, json=json, html=report, figures=figures)


@app.command()
def export(
    plan: Annotated[Path, Argument(help="Plan file.")],
    to: Annotated[str, Option(help="Target: see `plimsoll list exports`.")],
    model_path: Annotated[str, Option(help="What the engine loads: hub id or path.")] = "",
    workload: Annotated[
        str | None, Option("--workload", "-w", help="Load for the bench target.")
    ] = None,
    out: Annotated[Path | None, Option(help="Folder for the files; printed otherwise.")] = None,
    json: Json = False,
) -> None:
    """Write the files that start a plan on another system."""
    from dataclasses import replace

    from plimsoll.api.export import export as run_export
    from plimsoll.api.simulate import load_plan
    from plimsoll.cli.output import emit, show
    from plimsoll.spec.workload_files import load_workload

    answer = run_export(
        load_plan(plan),
        to,
        model_path=model_path,
        workload=load_workload(workload) if workload else None,
    )
    answer = replace(answer, plan_path=str(plan))
    if out is not None:
        answer.write(out)
    if out is not None or json:
        emit(answer, json=json, html=None)
        return
    for file in answer.files:
        show(f"# ---- {file.name}")
        show(file.text)


@app.command()
def reproduce(
    ids: Annotated[
        list[str] | None, Argument(help="Systems of the catalog; `list` names them.")
    ] = None,
    all_systems: Annotated[bool, Option("--all", help="Every system of the catalog.")] = False,
    data: Annotated[Path | None, Option(help="Folder of published measurements.")] = None,
    quick: Annotated[bool, Option("--quick", help="Leave slow checks out.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Recompute claims of published systems; exit 0 if all pass."""
    from plimsoll.api.listing import listing
    from plimsoll.api.reproduce import reproduce as run_reproduce
    from plimsoll.cli.output import emit
    from plimsoll.spec.errors import SpecError

    if ids == ["list"]:
        emit(listing("catalog"), json=json, html=None)
        return
    if bool(ids) == all_systems:
        raise SpecError("reproduce: name systems or --all; `plimsoll list catalog` shows them")
    talk = (
        None
        if quiet
        else lambda row: print(f"{row.system}: {row.what}: {row.verdict}", file=sys.stderr)
    )
    answer = run_reproduce(ids or (), data=data, quick=quick, on_row=talk)
    emit(answer, json=json, html=None)
    if not answer.passed:
        raise typer.Exit(1)


@app.command(name="list")
def list_names(
    kind: Annotated[
        str, Argument(help="models, hardware, workloads, policies, catalog or exports.")
    ],
    json: Json = False,
) -> None:
    """What the package knows by name."""
    from plimsoll.api.listing import listing
    from plimsoll.cli.output import emit

    emit(listing(kind), json=json, html=None)


@app.command()
def doctor(json: Json = False) -> None:
    """What this installation can do."""
    from plimsoll.api.doctor import doctor as run_doctor
    from plimsoll.cli.output import emit

    answer = run_doctor()
    emit(answer, json=json, html=None)
    if not answer.healthy:
        raise typer.Exit(1)


app.command(_OVERLAP)(plan_overlap)
app.command()(calibrate)
app.command()(peak)
app.command()(validate)
app.command()(serve)
app.command()(batch)
app.add_typer(trace_app, name="trace")
app.add_typer(laws_app, name="laws")
app.add_typer(tinylm_app, name="tinylm")


def run() -> None:
    """Entry point: errors become one sentence and an exit code."""
    try:
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:  # how some versions of typer report Ctrl-C
            _say("interrupted")
    except _USAGE_ERROR as error:
        code = _say_usage(error)
    except InfeasibleError as error:
        _say_infeasible(error)
        code = error.exit_code
    except PlimsollError as error:
        _say(f"error: {error}")
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        _say("interrupted")
        code = _INTERRUPTED
    except Exception as error:
        if os.environ.get("PLIMSOLL_DEBUG"):
            raise
        _say(
            f"internal error: {type(error).__name__}: {error}; "
            "run again with --debug for the traceback"
        )
        code = 1
    sys.exit(code)


def _say(sentence: str) -> None:
    print(" ".join(sentence.split()), file=sys.stderr)


def _say_usage(error: Exception) -> int:
    """One sentence, or the help where nothing at all was asked."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error, file=sys.stderr)
        return 2
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    verb = f"plimsoll {context.command_path.partition(' ')[2]}" if context else "plimsoll"
    _say(f"error: {message.rstrip('.')}; see `{verb.strip()} --help`")
    return 2


def _say_infeasible(error: InfeasibleError) -> None:
    _say(f"infeasible: {error}")
    for name, text in (
        ("what binds", error.binding),
        ("nearest", error.nearest),
        ("smallest change", error.change),
    ):
        if text:
            print(f"  {name}: {text}", file=sys.stderr)
    if "--json" in sys.argv:
        import json

        print(
            json.dumps(
                {
                    "format_version": 1,
                    "infeasible": str(error),
                    "binding": error.binding,
                    "nearest": error.nearest,
                    "change": error.change,
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    run()
