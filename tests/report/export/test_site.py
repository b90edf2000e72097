"""Each engine takes its own devices, by the variable that its maker's runtime reads."""

from dataclasses import replace

import pytest

from plimsoll.report.export import export_plan
from plimsoll.report.export.header import promise_lines
from plimsoll.spec.slo import Slo, SloTarget
from tests.export_plans import COLOCATED, context


@pytest.mark.parametrize(
    ("vendor", "variable"),
    [
        ("nvidia", "CUDA_VISIBLE_DEVICES"),
        ("amd", "CUDA_VISIBLE_DEVICES"),
        ("google", "TPU_VISIBLE_CHIPS"),
        ("huawei", "ASCEND_RT_VISIBLE_DEVICES"),
        ("intel", "HABANA_VISIBLE_MODULES"),
        ("another", ""),
    ],
)
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_variable_follows_the_vendor(engine: str, vendor: str, variable: str) -> None:
    plan = replace(COLOCATED, engine=engine)
    known = context(plan)
    pools = tuple(replace(facts, vendor=vendor) for facts in known.pools)
    files = export_plan(plan, engine, replace(known, pools=pools))
    text = next(file.text for file in files if file.name == "serve.sh")
    assert (f"{variable}=0,1,2,3" in text and f"{variable}=4,5,6,7" in text) == bool(variable)
    assert ("CUDA" in text) == (vendor in ("nvidia", "amd"))


@pytest.mark.parametrize(
    ("bound_s", "words"),
    [(2.0, "2 s"), (0.06, "60 ms"), (1.2345, "1.23 s (1.2345 s)"), (1200.0, "1,200 s")],
)
def test_a_bound_is_said_twice_only_where_short_words_would_round_it(
    bound_s: float, words: str
) -> None:
    slo = Slo(targets=(SloTarget(metric="ttft", percentile=99, bound_s=bound_s),))
    assert promise_lines(replace(COLOCATED, slo=slo)) == (f"p99 ttft <= {words}",)
