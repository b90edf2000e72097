"""The example policy of the concepts page runs as printed, and does what the page says."""

import re
from pathlib import Path

from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.policies import POLICIES
from plimsoll.serving.routers import ROUTERS, LeastWorkPolicy
from tests.serving.clusters import CLOCK, assert_same, poisson

PAGE = Path(__file__).parents[2] / "docs/concepts/policies.md"


def example() -> dict:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 1
    scope: dict = {"__name__": "example"}
    exec(compile(blocks[0], str(PAGE), "exec"), scope)
    return scope


def test_the_example_beats_first_come_first_served(capsys) -> None:
    times = example()["mean_ttft_s"]
    assert "ShortestPromptFirst" in capsys.readouterr().out
    assert times["ShortestPromptFirst"] < 0.8 * times["PrefillFirstPolicy"]


def test_the_example_obeys_the_laws_of_the_others() -> None:
    policy = example()["ShortestPromptFirst"]()
    for seed in range(10):
        workload = poisson(50, rate=20, seed=seed)
        spec = InstanceSpec(policy=policy, clock=CLOCK, num_blocks=120, max_num_seqs=8)
        fast, plain = (
            SimulatedExecutor([spec], LeastWorkPolicy(), fast_forward=f, check_books=True).run(
                workload
            )
            for f in (True, False)
        )
        assert_same(fast, plain)
        assert (fast.requests.status == 0).all()


def test_the_page_lists_every_policy_and_router() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for kind in (*POLICIES, *ROUTERS):
        assert f"\n| `{kind}` |" in text
