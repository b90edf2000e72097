"""SGLang and TensorRT-LLM: converted memory shares keep the plan's KV bytes, bounds add up."""

import shlex
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from plimsoll.report.export import PoolFacts, export_plan
from plimsoll.report.export.sglang_arguments import static_fraction
from plimsoll.report.export.trtllm import free_fraction
from plimsoll.spec.plan import (
    LeastWorkRouter,
    Parallel,
    Pool,
    PrefillFirst,
    RoundRobinRouter,
    ServingPlan,
)
from tests.export_plans import COLOCATED, DISAGGREGATED, EXPERTS, context


def texts(plan: ServingPlan, target: str) -> dict[str, str]:
    return {f.name: f.text for f in export_plan(plan, target, context(plan))}


def words(text: str) -> list[str]:
    return shlex.split(text.replace("\\\n", " "), comments=True)


def value(found: list[str], flag: str) -> str:
    return found[found.index(flag) + 1]


@given(
    total_gb=st.floats(16, 288),
    weights=st.floats(0.05, 0.5),
    activations=st.floats(0, 0.1),
    runtime=st.floats(0, 0.05),
    share=st.floats(0.7, 1.0),
)
def test_converted_shares_leave_the_plan_its_kv_bytes(
    total_gb: float, weights: float, activations: float, runtime: float, share: float
) -> None:
    total = total_gb * 1e9
    facts = PoolFacts(
        devices_per_host=8,
        device_memory_bytes=total,
        weight_bytes=weights * total,
        activation_bytes=activations * total,
        runtime_bytes=runtime * total,
    )
    pool = Pool(device="any", memory_fraction=share)
    kv = total * (share - weights - activations - runtime)
    # SGLang: weights and KV take the fraction of what is free before the model loads.
    free_before = total * (1 - runtime)
    sglang = static_fraction(pool, facts, 0, "sglang") * free_before - facts.weight_bytes
    assert kv - 2e-4 * total <= sglang <= kv + 1.0
    # TensorRT-LLM: KV takes the fraction of what is free after it.
    free_after = total * (1 - weights - activations - runtime)
    trtllm = free_fraction(pool, facts, 0, "trtllm") * free_after
    assert kv - 2e-4 * total <= trtllm <= kv + 1.0


def test_sglang_counts_attention_ranks_in_tensor_parallel_size() -> None:
    plan = replace(EXPERTS, engine="sglang")
    found = words(texts(plan, "sglang")["serve-host0.sh"])
    assert value(found, "--tp-size") == "16"
    assert value(found, "--dp-size") == "16"
    assert "--enable-dp-attention" in found
    assert value(found, "--ep-size") == "16"
    # of the whole engine: SGLang divides among ranks itself
    assert value(found, "--chunked-prefill-size") == "32768"
    assert value(found, "--max-running-requests") == "1024"
    assert value(found, "--nnodes") == "2"
    assert value(found, "--dist-init-addr") == "$HOST_0:20000"
    assert "--disable-radix-cache" in found


def test_sglang_runs_prompts_first_or_mixes_chunks() -> None:
    chunked = words(texts(replace(COLOCATED, engine="sglang"), "sglang")["serve.sh"])
    assert "--enable-mixed-chunk" in chunked
    first = replace(COLOCATED.pools[0], policy=PrefillFirst(max_batched_tokens=131072))
    plan = replace(COLOCATED, engine="sglang", pools=(first,))
    whole = words(texts(plan, "sglang")["serve.sh"])
    assert value(whole, "--chunked-prefill-size") == "-1"
    assert value(whole, "--max-prefill-tokens") == "131072"
    assert "--enable-mixed-chunk" not in whole


def test_sglang_engines_of_one_host_keep_their_ports_apart() -> None:
    pools = tuple(replace(p, parallel=Parallel(tp=2)) for p in DISAGGREGATED.pools)
    plan = replace(DISAGGREGATED, engine="sglang", pools=pools)
    files = texts(plan, "sglang")
    found = words(files["serve.sh"])
    for flag in ("--port", "--disaggregation-bootstrap-port"):
        ports = [int(found[i + 1]) for i, w in enumerate(found) if w == flag]
        assert len(set(ports)) == len(ports) == 3
    router = words(files["router.sh"])
    bootstrap = value(found, "--disaggregation-bootstrap-port")
    assert router[router.index("--prefill") + 2] == bootstrap


def test_trtllm_gives_each_attention_rank_its_share() -> None:
    parallel = Parallel(tp=1, attention_dp=8, ep=4)
    plan = replace(EXPERTS, engine="trtllm", pools=(replace(EXPERTS.pools[0], parallel=parallel),))
    settings = yaml.safe_load(texts(plan, "trtllm")["server.yaml"])
    assert settings["tensor_parallel_size"] == 8
    assert settings["enable_attention_dp"] is True
    assert settings["max_batch_size"] * 8 == 1024
    assert settings["max_num_tokens"] * 8 == 32768
    assert settings["moe_expert_parallel_size"] * settings["moe_tensor_parallel_size"] == 8
    assert settings["kv_cache_config"]["enable_block_reuse"] is False
    assert settings["kv_cache_config"]["dtype"] == "fp8"


def test_trtllm_disaggregated_front_knows_every_engine() -> None:
    pools = tuple(replace(p, parallel=Parallel(tp=2)) for p in DISAGGREGATED.pools)
    files = texts(replace(DISAGGREGATED, engine="trtllm", pools=pools), "trtllm")
    front = yaml.safe_load(files["disaggregated.yaml"])
    found = words(files["serve.sh"])
    ports = {w for i, w in enumerate(found) if found[i - 1] == "--port"}
    urls = front["context_servers"]["urls"] + front["generation_servers"]["urls"]
    assert {url.split(":")[1] for url in urls} == ports
    assert front["context_servers"]["num_instances"] == 2
    assert yaml.safe_load(files["prefill.yaml"])["disable_overlap_scheduler"] is True


@pytest.mark.parametrize(("router", "rule"), [(LeastWorkRouter(), 1), (RoundRobinRouter(), 0)])
def test_trtllm_colocated_engines_stand_behind_nginx(router: object, rule: int) -> None:
    plan = replace(COLOCATED, engine="trtllm", router=router)  # type: ignore[arg-type]
    conf = texts(plan, "trtllm")["nginx.conf"]
    assert conf.count("least_conn;") == rule
    assert conf.count("    server 127.0.0.1:") == 2
    assert conf.count("{") == conf.count("}")
