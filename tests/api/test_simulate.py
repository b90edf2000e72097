"""What a simulated run says beside its numbers."""

from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.api.simulate import simulate
from plimsoll.spec.plan import Parallel, Pool, ServingPlan


def notes(model: str, workload: str) -> list[str]:
    plan = ServingPlan(
        model=model,
        fleet="8xH100-SXM",
        pools=(Pool(device="H100-SXM", parallel=Parallel(tp=4)),),
    )
    answer = simulate(plan, WorkloadSpec(text=workload, num_requests=20))
    return list(answer.data()["notes"])


def test_prefix_caching_that_is_not_simulated_is_said() -> None:
    assert any("prefix caching was left out" in note for note in notes("gpt-oss-120b", "long-chat"))
    assert not any("prefix caching" in note for note in notes("llama-3.1-70b", "long-chat"))
    assert not any("prefix caching" in note for note in notes("gpt-oss-120b", "chat"))
