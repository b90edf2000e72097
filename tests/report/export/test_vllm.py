"""The vLLM scripts start what the plan says: read back, run with a stub, checked by flag."""

import json
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings

from plimsoll.report.export import export_plan, parse_vllm, serve_command
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.plan import ServingPlan
from tests.export_plans import COLOCATED, DISAGGREGATED, EXPERTS, context, plans

STUB = """#!/usr/bin/env python3
import json, os, sys
line = json.dumps([sys.argv[1:], os.environ.get("CUDA_VISIBLE_DEVICES", "")]) + "\\n"
with open(os.environ["CALLS"], "a") as file:
    file.write(line)
"""


def starts(plan: ServingPlan, **changes: object) -> list[str]:
    files = export_plan(plan, "vllm", context(plan, **changes))
    return [f.text for f in files if f.name.startswith("serve") and f.name.endswith(".sh")]


@settings(max_examples=60, deadline=None)
@given(plan=plans("vllm"))
def test_scripts_read_back_to_the_plan(plan: ServingPlan) -> None:
    try:
        texts = starts(plan)
    except UnsupportedError as refusal:
        assert "max_num_seqs" in str(refusal)
        return
    parsed = parse_vllm(texts, device="H100-SXM")
    assert [p for p in parsed.pools if p.role != "decode"] == [
        p for p in plan.pools if p.role != "decode"
    ]
    assert sorted(map(repr, parsed.pools)) == sorted(map(repr, plan.pools))
    assert parsed.kv_dtype == plan.kv_dtype
    assert parsed.max_model_len == (plan.max_model_len or 131072)


@pytest.mark.parametrize("wanted", [DType.FP8, DType.FP8_BLOCK, DType.MXFP8, DType.MXFP4])
def test_an_online_format_reads_back(wanted: DType) -> None:
    plan = replace(COLOCATED, weight_dtype=wanted)
    assert parse_vllm(starts(plan), device="").online == wanted


@pytest.mark.parametrize("wanted", [DType.BF16, DType.FP8])
def test_a_checkpoint_in_the_wanted_format_needs_no_flag(wanted: DType) -> None:
    plan = replace(COLOCATED, weight_dtype=wanted)
    (text,) = starts(plan, checkpoint_dtype=wanted)
    assert "--quantization" not in text
    assert "--dtype" not in text


def test_every_device_is_used_once() -> None:
    plan = replace(
        COLOCATED,
        pools=(replace(COLOCATED.pools[0], replicas=5), replace(COLOCATED.pools[0], replicas=1)),
    )
    texts = starts(plan)
    used = []
    for host, text in enumerate(texts):
        for line in text.splitlines():
            if line.startswith("CUDA_VISIBLE_DEVICES="):
                devices = line.split("=", 1)[1].split()[0].split(",")
                used += [(host, int(d)) for d in devices]
    assert sorted(used) == [(h, d) for h in range(3) for d in range(8)]


def test_a_replica_over_two_hosts_is_one_engine() -> None:
    texts = starts(EXPERTS)
    assert len(texts) == 2
    first, second = (shlex.split(text.replace("\\\n", " "), comments=True) for text in texts)
    assert first[first.index("--node-rank") + 1] == "0"
    assert second[second.index("--node-rank") + 1] == "1"
    assert "--headless" in second
    assert "--headless" not in first
    assert first[first.index("--master-addr") + 1] == "$HOST_0"
    assert second[second.index("--master-addr") + 1] == "$HOST_0"
    # 16 ranks share the replica's 32,768 tokens and 1,024 requests
    assert first[first.index("--max-num-batched-tokens") + 1] == "2048"
    assert first[first.index("--max-num-seqs") + 1] == "64"
    assert "--enable-expert-parallel" in first


def test_prefill_sends_and_decode_receives_kv() -> None:
    roles = []
    for text in starts(DISAGGREGATED):
        words = shlex.split(text.replace("\\\n", " "), comments=True)
        for i, word in enumerate(words):
            if word == "--kv-transfer-config":
                roles.append(json.loads(words[i + 1])["kv_role"])
    assert roles == ["kv_producer"] * 2 + ["kv_consumer"] * 2  # decode spans two hosts


def test_the_configuration_file_says_what_the_command_says() -> None:
    for plan in (COLOCATED, EXPERTS, DISAGGREGATED):
        files = {f.name: f.text for f in export_plan(plan, "vllm", context(plan))}
        configurations = [yaml.safe_load(files[n]) for n in sorted(files) if n.endswith(".yaml")]
        for data in configurations:
            index = next(
                i for i, p in enumerate(plan.pools) if p.parallel.tp == data["tensor-parallel-size"]
            )
            words = shlex.split(serve_command(plan, context(plan), index).replace("\\\n", " "))
            words = words[words.index("serve") :]
            assert data.pop("model") == words[1]
            for key, value in data.items():
                at = words.index(f"--{key}")
                if value is True:
                    continue
                found = words[at + 1]
                assert found == (value if isinstance(value, str) else json.dumps(value)), key


@pytest.mark.parametrize("name", ["it's; rm -rf $HOME `id`", 'a "b" \\ c', "x && y #z", "ü*"])
def test_a_script_passes_any_name_on_unchanged(name: str, tmp_path: Path) -> None:
    (script,) = starts(COLOCATED, model=name, served_name=name)
    stub = tmp_path / "vllm"
    stub.write_text(STUB)
    stub.chmod(0o755)
    calls = tmp_path / "calls"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls)}
    done = subprocess.run(
        ["bash", "-c", script.replace("wait -n", "wait")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    called = [json.loads(line) for line in calls.read_text().splitlines()]
    assert sorted(devices for _, devices in called) == ["0,1,2,3", "4,5,6,7"]
    for words, _ in called:
        assert words[1] == name
        assert words[words.index("--served-model-name") + 1] == name


@pytest.mark.parametrize("name", ["", "a\nb", "--host=evil", "a\x00b"])
def test_a_name_that_cannot_be_a_word_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="model"):
        starts(COLOCATED, model=name, served_name="fine")


def test_several_hosts_need_their_addresses(tmp_path: Path) -> None:
    text = starts(EXPERTS)[0]
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=30, env={})
    assert done.returncode != 0
    assert "HOST_0" in done.stderr


def test_reading_back_refuses_what_it_does_not_know() -> None:
    (text,) = starts(COLOCATED)
    with pytest.raises(SpecError, match="unknown --swap-space 4"):
        parse_vllm([text.replace("--host", "--swap-space 4 --host")], device="")
    with pytest.raises(SpecError, match="2 deployments"):
        parse_vllm([text, text.replace("131072", "4096")], device="")
    with pytest.raises(SpecError, match="0 deployments"):
        parse_vllm(["echo nothing"], device="")
