"""Proposed commands say what was asked: options read back to the same promise and workload."""

import shlex

from hypothesis import given
from hypothesis import strategies as st

from plimsoll.api.commands import command, rounded_down, slo_words, workload_words
from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.api.simulate import simulate
from plimsoll.api.slo_options import slo_from_options
from plimsoll.cli.output import workload_spec
from plimsoll.spec.plan import Pool, ServingPlan
from plimsoll.spec.slo import METRICS, Slo, SloTarget

TARGETS = st.builds(
    SloTarget,
    metric=st.sampled_from(METRICS),
    percentile=st.sampled_from([50.0, 90.0, 95.0, 99.0, 99.9]),
    bound_s=st.sampled_from([0.0005, 0.02, 0.06, 0.25, 1.0, 2.5, 60.0]),
    request_class=st.sampled_from(["", "chat", "batch-2"]),
)


def option(words: tuple[str, ...], name: str) -> list[str]:
    return [value for key, value in zip(words, words[1:], strict=False) if key == name]


@given(st.lists(TARGETS, max_size=4, unique_by=lambda t: (t.metric, t.percentile, t.request_class)))
def test_a_promise_reads_back(targets: list[SloTarget]) -> None:
    words = slo_words(Slo(targets=tuple(targets)))
    found = slo_from_options(
        ttft_p99=next(iter(option(words, "--ttft-p99")), None),
        tpot_p99=next(iter(option(words, "--tpot-p99")), None),
        more=option(words, "--slo"),
    )
    assert {t.metric: 0 for t in found.targets} == {t.metric: 0 for t in targets}
    for target in targets:
        (same,) = [
            t
            for t in found.targets
            if (t.metric, t.percentile, t.request_class)
            == (target.metric, target.percentile, target.request_class)
        ]
        assert abs(same.bound_s - target.bound_s) <= 1e-12 * target.bound_s


@given(
    st.sampled_from(["chat", "4000/500", "my traces/a 'b'.csv"]),
    st.none() | st.floats(0.01, 1e4),
    st.integers(0, 10**6),
)
def test_a_workload_reads_back(text: str, rate: float | None, requests: int) -> None:
    asked = WorkloadSpec(text=text, rate_per_s=rate, num_requests=requests)
    words = tuple(shlex.split(command("simulate", "plan.yaml", *workload_words(asked))))
    found = workload_spec(
        option(words, "--workload")[0],
        rate=next(iter(option(words, "--rate")), None),
        requests=int(next(iter(option(words, "--requests")), 0)),
    )
    assert (found.text, found.num_requests) == (text, requests)
    assert (found.rate_per_s is None) == (rate is None)
    assert rate is None or abs(found.rate_per_s - rate) <= 1e-9 * rate


@given(st.floats(1e-3, 1e6))
def test_rounded_down_is_near_and_never_above(value: float) -> None:
    assert 0.89 * value <= rounded_down(value) * (1 - 1e-12) <= value


def test_a_simulation_says_the_command_that_repeats_it() -> None:
    pools = (Pool(device="L40S", max_num_seqs=64),)
    slo = Slo(targets=(SloTarget(metric="ttft", percentile=99, bound_s=2.0),))
    plan = ServingPlan(model="llama-3.1-8b", fleet="1xL40S", pools=pools, slo=slo)
    work = WorkloadSpec(text="500/50", num_requests=20)
    words = shlex.split(simulate(plan, work, seed=3).report().command)
    assert option(tuple(words), "--ttft-p99") == ["2s"]
    assert option(tuple(words), "--seed") == ["3"]
