"""Serve every setting of ``evals/fidelity.py`` for real and on the simulated clock.

The real side is the engine as ``plimsoll serve`` starts it: a worker process, wall clock, tokens
of random prompts drawn greedily, end tokens ignored so that outputs have the stated lengths. A few
requests go before the measured ones, since kernels are built at their first use.
Leaves out: HTTP and tokenizing.
"""

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from plimsoll.cost.clock import StepClock
from plimsoll.evals.fidelity import (
    LOADS,
    MODELS,
    POLICIES,
    Cell,
    Load,
    figures_of,
    plan_of,
    saturated_rate,
    simulated_run,
    traffic,
)
from plimsoll.models.loading import build, save
from plimsoll.serving.executors.torch.deploy import ModelFacts, deploy, instance_specs, model_facts
from plimsoll.serving.executors.torch.engine import Conversation
from plimsoll.serving.executors.torch.live_run import LiveRun
from plimsoll.serving.generation import SamplingParams
from plimsoll.serving.simulate.run import router_for
from plimsoll.spec.errors import ExecutionError
from plimsoll.spec.hf.config import model_from_config
from plimsoll.spec.io import plain
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.plan import ServingPlan, StepPolicyConfig
from plimsoll.spec.record import RunRecord
from plimsoll.spec.workload import Workload

__all__ = ["ClockOf", "compare_all", "serve_for_real"]

ClockOf = Callable[[ModelSpec], StepClock]
_WARM_REQUESTS = 24
_LEAST_REQUESTS, _MOST_REQUESTS = 60, 400
_KV_BYTES = 2**29
_PATIENCE_S = 600.0


def compare_all(
    clock_of: ClockOf,
    *,
    request_s: float,
    device: str = "cpu",
    run_s: float = 20.0,
    models: Sequence[str] = tuple(MODELS),
    loads: Sequence[Load] = LOADS,
    policies: Sequence[StepPolicyConfig] = POLICIES,
    others: Sequence[ClockOf] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[Cell, ...]]:
    """Each setting's cell; real runs are sized by the simulator to take about ``run_s`` seconds.

    With ``others``, further cells of the same real run against other clocks follow the first.

    Raises:
        ExecutionError: the engine did not serve every request.
    """
    for seed, name in enumerate(models):
        config = MODELS[name]
        spec = model_from_config(dict(config), name=name, where=name)
        clocks = [make(spec) for make in (clock_of, *others)]
        with tempfile.TemporaryDirectory(prefix="plimsoll-fidelity-") as place:
            folder = Path(place) / name
            _write(config, folder)
            facts = model_facts(folder)
            for load, policy in itertools.product(loads, policies):
                say(f"{name}, load {load.name}, {policy.kind}")
                plan = plan_of(name, policy)
                specs = [instance_specs(plan, facts, kv_bytes=_KV_BYTES, clock=c) for c in clocks]
                most = saturated_rate(specs[0], router_for(plan.router))
                rate = load.fraction * most
                num = round((rate or most) * run_s)
                num = min(max(num, _LEAST_REQUESTS), _MOST_REQUESTS)
                workload = traffic(num, rate=rate, seed=seed)
                real = serve_for_real(plan, facts, workload, clock=clocks[0], device=device)
                seen = figures_of(real, skip=_WARM_REQUESTS)
                took_s = float(np.max(real.requests.finished_s) - real.requests.arrival_s[-num])
                cells = []
                for each in specs:
                    record = simulated_run(
                        each, router_for(plan.router), workload, request_s=request_s
                    )
                    cells.append(
                        Cell(
                            model=name,
                            load=load.name,
                            policy=policy.kind,
                            num_requests=num,
                            real_s=took_s,
                            real=seen,
                            simulated=figures_of(record),
                        )
                    )
                yield tuple(cells)


def serve_for_real(
    plan: ServingPlan, facts: ModelFacts, workload: Workload, *, clock: StepClock, device: str
) -> RunRecord:
    """The record of the warming requests and then of ``workload``, in this order."""
    run = deploy(
        plan,
        facts,
        kv_bytes=_KV_BYTES,
        device=device,
        num_threads=torch.get_num_threads(),
        clock=clock,
        keep=True,
    )
    run.start()
    try:
        warm = traffic(_WARM_REQUESTS, rate=0.0, seed=98)
        _drive(run, warm, facts.vocab_size)
        _drive(run, workload, facts.vocab_size)
    finally:
        run.close()
    return run.record()


def _drive(run: LiveRun, workload: Workload, vocab_size: int) -> None:
    """Send every request when it is due and wait for the last one's end."""
    rng = np.random.default_rng(len(workload))
    prompts = [rng.integers(0, vocab_size, int(n)).tolist() for n in workload.prompt_tokens]
    outputs = workload.output_tokens.tolist()
    turn = threading.Semaphore(workload.num_in_flight or len(workload))
    failed: list[str] = []

    def over(text: Conversation) -> None:
        if text.finish != "length":
            failed.append(f"{text.finish}: {text.error}")
        turn.release()

    begun_s = time.monotonic()
    for prompt, output, at_s in zip(prompts, outputs, workload.arrival_s, strict=True):
        params = SamplingParams(max_tokens=output, temperature=0.0, ignore_eos=True)
        text = Conversation(prompt, params, deliver=lambda token, logprobs: None, end=over)
        if not workload.num_in_flight:
            time.sleep(max(0.0, begun_s + float(at_s) - time.monotonic()))
        if not turn.acquire(timeout=_PATIENCE_S):
            raise ExecutionError("the engine did not end a request in time")
        run.submit(text)
    if not run.wait_idle(_PATIENCE_S) or failed:
        raise ExecutionError(f"the engine did not serve every request: {failed[:1] or 'too slow'}")


def _write(config: dict[str, Any], folder: Path) -> None:
    """A checkpoint of random weights, small enough that scores stay finite."""
    model = cast(nn.Module, build(plain(config), dtype=torch.float32, device="cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.02, generator=generator)
            else:
                parameter.fill_(1.0)
    save(cast(Any, model), folder)
