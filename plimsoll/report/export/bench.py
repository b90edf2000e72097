"""The same load for real servers: a trace and the commands of three load generators.

An open loop is replayed by its timestamps; a closed loop sends the trace's lengths with the
plan's number in flight. The SLO becomes each tool's per-request goodput bounds and the
percentiles to print. ``itl`` has no per-request bound in these tools: it is printed and the
promise stated. Sources: vllm/benchmarks of vLLM 0.33.0; aiperf 0.13.0 flags; guidellm 0.8.1
schemas and documentation.
"""

from plimsoll.report.export.contract import ExportContext, ExportedFile, check_text, refuse
from plimsoll.report.export.header import comment, header
from plimsoll.report.export.layout import front_port
from plimsoll.report.export.shell import Launch, script
from plimsoll.report.export.trace import block_tokens, trace_text
from plimsoll.spec.errors import SpecError
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.workload import Workload

__all__ = ["VERSIONS", "export"]

VERSIONS = ("vLLM 0.33.0", "guidellm 0.8.1", "aiperf 0.13.0")
TARGET = "bench"
TRACE = "trace.jsonl"
BOUNDED = ("ttft", "tpot", "e2e")
"""Metrics every tool counts goodput by; the tools call e2e by other names."""


def _bounds_ms(plan: ServingPlan) -> dict[str, float]:
    """The tightest bound of each metric, in milliseconds."""
    bounds: dict[str, float] = {}
    for metric in BOUNDED:
        bound_s = plan.slo.bound_s(metric)
        if bound_s is not None:
            bounds[metric] = float(f"{bound_s * 1e3:.12g}")
    return bounds


def _percentiles(plan: ServingPlan) -> str:
    wanted = {t.percentile for t in plan.slo.targets} | {50.0, 90.0, 99.0}
    return ",".join(f"{p:.12g}" for p in sorted(wanted))


def _check(plan: ServingPlan, context: ExportContext) -> Workload:
    check_text("model", context.model)
    check_text("served name", context.name)
    if context.workload is None:
        raise SpecError(
            f"export to {TARGET}: no workload; give the one the plan was judged with in the context"
        )
    workload = context.workload
    for index, target in enumerate(plan.slo.targets):
        if target.request_class:
            refuse(
                TARGET,
                f"slo.targets[{index}].request_class",
                target.request_class,
                "the load generators know no classes of request",
                "export one plan and workload a class",
            )
    if workload.sessions_wait:
        refuse(
            TARGET,
            "workload.sessions_wait",
            True,
            "a trace holds arrival times, not turns that wait for the one before",
            "simulate with stated arrival times, or drive the server with a session client",
        )
    return workload


def _vllm(plan: ServingPlan, context: ExportContext, workload: Workload) -> Launch:
    words = ["vllm", "bench", "serve", "--backend", "openai", "--endpoint", "/v1/completions"]
    words += ["--host", "127.0.0.1", "--port", str(front_port()), "--model", context.model]
    words += ["--served-model-name", context.name]
    words += ["--dataset-name", "timed_trace", "--dataset-path", TRACE]
    words += ["--timed-trace-chunk-hash-size", str(block_tokens(workload))]
    words += ["--timed-trace-sec-multiplier", "0.001"]
    words += ["--num-prompts", str(len(workload)), "--ignore-eos"]
    if workload.num_in_flight:
        words += ["--no-self-timed", "--request-rate", "inf"]
        words += ["--max-concurrency", str(workload.num_in_flight)]
    else:
        words.append("--self-timed")
    words += ["--percentile-metrics", "ttft,tpot,itl,e2el"]
    words += ["--metric-percentiles", _percentiles(plan)]
    bounds = _bounds_ms(plan)
    if bounds:
        names = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2el"}
        words += ["--goodput", *(f"{names[m]}:{b:.12g}" for m, b in bounds.items())]
    return Launch(argv=(*words, "--save-result"))


def _guidellm(plan: ServingPlan, context: ExportContext, workload: Workload) -> Launch:
    target = f"http://127.0.0.1:{front_port()}"
    backend = (
        f"kind=openai_http,target={target},model={context.name},request_format=/v1/completions"
    )
    size = block_tokens(workload)
    data = f"kind=mooncake,source.kind=json_file,source.path={TRACE},hash_id_block_size={size}"
    if workload.num_in_flight:
        profile = f"kind=concurrent,streams={workload.num_in_flight}"
    else:
        profile = "kind=replay,time_scale=0.001,schedule_turn=timestamp"
    words = ["guidellm", "run", "--backend", backend, "--data", data, "--profile", profile]
    words += ["--tokenizer", f"kind=huggingface_auto,model={context.model}"]
    words += ["--constraint", f"kind=max_requests,count={len(workload)}"]
    bounds = _bounds_ms(plan)
    if bounds:
        names = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2e": "e2el_ms"}
        limits = ",".join(f"slo.{names[m]}={b:.12g}" for m, b in bounds.items())
        words += ["--metrics", f"kind=generative,{limits}"]
    return Launch(argv=tuple(words))


def _aiperf(plan: ServingPlan, context: ExportContext, workload: Workload) -> Launch:
    words = ["aiperf", "profile", "--model", context.name, "--tokenizer", context.model]
    words += ["--url", f"http://127.0.0.1:{front_port()}"]
    words += ["--endpoint-type", "completions", "--streaming"]
    words += ["--input-file", TRACE, "--custom-dataset-type", "mooncake_trace"]
    words += ["--isl-block-size", str(block_tokens(workload))]
    words += ["--extra-inputs", "ignore_eos:true"]
    if workload.num_in_flight:
        words += ["--no-fixed-schedule", "--concurrency", str(workload.num_in_flight)]
        words += ["--request-count", str(len(workload))]
    else:
        words.append("--fixed-schedule")
    bounds = _bounds_ms(plan)
    if bounds:
        names = {
            "ttft": "time_to_first_token",
            "tpot": "inter_token_latency",
            "e2e": "request_latency",
        }
        words += ["--goodput", " ".join(f"{names[m]}:{b:.12g}" for m, b in bounds.items())]
    return Launch(argv=tuple(words))


def export(plan: ServingPlan, context: ExportContext) -> tuple[ExportedFile, ...]:
    """The trace and one script a load generator, against the port the other targets open.

    Raises:
        UnsupportedError: the load or the promise cannot be expressed; the message names it.
    """
    workload = _check(plan, context)
    loop = (
        f"{workload.num_in_flight} in flight"
        if workload.num_in_flight
        else f"{workload.rate_per_s:.4g} requests/s by timestamp"
    )
    load = f"Load: {workload.name}, {len(workload)} requests, {loop}, in {TRACE}."
    files = []
    for name, version, build in (
        ("vllm-bench", VERSIONS[0], _vllm),
        ("guidellm", VERSIONS[1], _guidellm),
        ("aiperf", VERSIONS[2], _aiperf),
    ):
        top = (*header(plan, "The load the plan was judged with.", (version,)), load)
        if any(t.metric == "itl" for t in plan.slo.targets):
            top += ("Goodput here has no itl bound: compare the printed percentiles.",)
        text = script(comment(top), [build(plan, context, workload)])
        files.append(ExportedFile(name=f"{name}.sh", text=text, executable=True))
    return (*files, ExportedFile(name=TRACE, text=trace_text(workload)))
