"""Every option written is one the stated version knows.

The lists in known/ are the option names of the released packages named in their first line.
"""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from plimsoll.report.export import export_plan
from plimsoll.spec.plan import PrefixAffineRouter, ServingPlan
from tests.export_plans import COLOCATED, DISAGGREGATED, EXPERTS, context, workload

KNOWN = Path(__file__).parent / "known"
PLANS = (
    COLOCATED,
    DISAGGREGATED,
    EXPERTS,
    replace(COLOCATED, router=PrefixAffineRouter()),
)
TRTLLM_SETTINGS = {
    *("backend", "tensor_parallel_size", "pipeline_parallel_size", "moe_expert_parallel_size"),
    *("moe_tensor_parallel_size", "enable_attention_dp", "max_batch_size", "max_num_tokens"),
    *("max_seq_len", "enable_chunked_prefill", "kv_cache_config", "scheduler_config"),
    *("disable_overlap_scheduler", "cache_transceiver_config"),
}
"""tensorrt_llm/llmapi/llm_args.py (TorchLlmArgs) of TensorRT-LLM 1.2."""


def known(name: str) -> set[str]:
    lines = (KNOWN / f"{name}.txt").read_text().splitlines()
    assert lines[0].startswith("# ")
    return set(lines[1:])


def flags(text: str) -> set[str]:
    found = shlex.split(text.replace("\\\n", " "), comments=True)
    return {w for w in found if re.match(r"--[a-z]", w)}


def launched(plan: ServingPlan, target: str, name: str) -> str:
    files = export_plan(plan, target, context(plan))
    return "\n".join(f.text for f in files if f.name.startswith(name) and f.name.endswith(".sh"))


@pytest.mark.parametrize(
    ("engine", "version", "router"),
    [
        ("vllm", "vllm-0.33.0", "vllm-router-0.1.17"),
        ("sglang", "sglang-0.5.23", "sglang-router-0.3.2"),
    ],
)
def test_engine_and_router_options_are_known(engine: str, version: str, router: str) -> None:
    for plan in PLANS:
        plan = replace(plan, engine=engine)  # type: ignore[arg-type]
        written = flags(launched(plan, engine, "serve"))
        assert len(written) > 10
        assert written <= known(version)
        assert flags(launched(plan, engine, "router")) <= known(router)


def test_a_yaml_configuration_holds_known_options() -> None:
    for plan in PLANS:
        for file in export_plan(plan, "vllm", context(plan)):
            if file.name.endswith(".yaml"):
                data: dict[str, Any] = yaml.safe_load(file.text)
                assert {f"--{key}" for key in data} <= known("vllm-0.33.0") | {"--model"}


def test_engine_settings_of_trtllm_are_known() -> None:
    plan = replace(COLOCATED, engine="trtllm")
    for file in export_plan(plan, "trtllm", context(plan)):
        if file.name.endswith(".yaml"):
            assert set(yaml.safe_load(file.text)) <= TRTLLM_SETTINGS


def test_options_in_cluster_manifests_are_known() -> None:
    for plan in PLANS:
        objects = yaml.safe_load_all(export_plan(plan, "kubernetes", context(plan))[0].text)
        for o in objects:
            if o["kind"] != "Deployment":
                continue
            container = o["spec"]["template"]["spec"]["containers"][0]
            written = {w for w in container["command"] if w.startswith("--")}
            name = "vllm-0.33.0" if container["name"] == "engine" else "vllm-router-0.1.17"
            assert written
            assert written <= known(name)


@pytest.mark.parametrize("num_in_flight", [0, 3])
@pytest.mark.parametrize(
    ("name", "version"), [("vllm-bench", "vllm-bench-0.33.0"), ("aiperf", "aiperf-0.13.0")]
)
def test_load_generator_options_are_known(name: str, version: str, num_in_flight: int) -> None:
    facts = context(COLOCATED, workload=workload(num_in_flight=num_in_flight))
    files = {f.name: f.text for f in export_plan(COLOCATED, "bench", facts)}
    written = flags(files[f"{name}.sh"])
    negated = {w.replace("--no-", "--") for w in written} | written
    assert written <= known(version) | {w for w in negated if w in ("--no-self-timed",)}
