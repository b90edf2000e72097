"""Kubernetes, Dynamo and llm-d: devices are conserved, selectors find what they must."""

from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plimsoll.report.export import export_plan
from plimsoll.report.export.pods import object_name
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.plan import LeastWorkRouter, ServingPlan
from tests.export_plans import COLOCATED, DISAGGREGATED, EXPERTS, context, plans


def load(plan: ServingPlan, target: str) -> list[dict[str, Any]]:
    (file, *_) = export_plan(plan, target, context(plan))
    return list(yaml.safe_load_all(file.text))


def pod_devices(pod: dict[str, Any]) -> int:
    return sum(
        int(c.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0))
        for c in pod["spec"]["containers"]
    )


def kubernetes_devices(objects: list[dict[str, Any]]) -> int:
    total = 0
    for o in objects:
        if o["kind"] == "Deployment":
            total += o["spec"]["replicas"] * pod_devices(o["spec"]["template"])
        if o["kind"] == "LeaderWorkerSet":
            group = o["spec"]["leaderWorkerTemplate"]
            followers = (group["size"] - 1) * pod_devices(group["workerTemplate"])
            leader = pod_devices(group["leaderTemplate"])
            total += o["spec"]["replicas"] * (leader + followers)
    return total


def dynamo_devices(objects: list[dict[str, Any]]) -> int:
    return sum(
        c["replicas"] * c.get("multinode", {}).get("nodeCount", 1) * pod_devices(c["podTemplate"])
        for c in objects[0]["spec"]["components"]
    )


def llm_d_devices(objects: list[dict[str, Any]]) -> int:
    return sum(
        side["replicas"] * side["parallelism"]["workers"] * pod_devices({"spec": side})
        for side in (objects[0]["prefill"], objects[0]["decode"])
        if side["create"]
    )


COUNTS = {"kubernetes": kubernetes_devices, "dynamo": dynamo_devices, "llm-d": llm_d_devices}


@pytest.mark.parametrize("target", COUNTS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_cluster_is_asked_for_the_devices_of_the_plan(target: str, data: st.DataObject) -> None:
    plan = data.draw(plans("vllm"))
    if plan.router.kind != "disaggregated":
        plan = replace(plan, router=LeastWorkRouter())
    try:
        objects = load(plan, target)
    except UnsupportedError:
        assume(False)
        raise
    assert COUNTS[target](objects) == plan.num_devices


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("plan", [COLOCATED, DISAGGREGATED, EXPERTS])
def test_every_selector_finds_a_pod(plan: ServingPlan, engine: str) -> None:
    objects = load(replace(plan, engine=engine), "kubernetes")  # type: ignore[arg-type]
    pods = []
    for o in objects:
        if o["kind"] == "Deployment":
            template = o["spec"]["template"]
            labels = template["metadata"]["labels"]
            assert o["spec"]["selector"]["matchLabels"].items() <= labels.items()
            pods.append(template)
        if o["kind"] == "LeaderWorkerSet":
            pods.append(o["spec"]["leaderWorkerTemplate"]["leaderTemplate"])
    (service,) = [o for o in objects if o["kind"] == "Service"]
    behind = service["spec"]["selector"].items()
    served = [p for p in pods if behind <= p["metadata"]["labels"].items()]
    assert served
    for pod in served:
        ports = [p["containerPort"] for c in pod["spec"]["containers"] for p in c["ports"]]
        assert service["spec"]["ports"][0]["targetPort"] in ports
    names = [(o["kind"], o["metadata"]["name"]) for o in objects]
    assert len(set(names)) == len(names)
    for router in (p for p in pods if p["metadata"]["labels"]["role"] == "router"):
        command = router["spec"]["containers"][0]["command"]
        wanted = [w.split("=")[1] for w in command if w.startswith("role=")]
        roles = {p["metadata"]["labels"]["role"] for p in pods} - {"router"}
        assert set(wanted) == roles


def test_a_replica_over_hosts_is_a_leader_and_its_workers() -> None:
    objects = load(EXPERTS, "kubernetes")
    (group,) = [o for o in objects if o["kind"] == "LeaderWorkerSet"]
    template = group["spec"]["leaderWorkerTemplate"]
    assert template["size"] == 2
    leader = template["leaderTemplate"]["spec"]["containers"][0]
    worker = template["workerTemplate"]["spec"]["containers"][0]
    assert "readinessProbe" in leader
    assert "readinessProbe" not in worker
    at = worker["command"].index("--node-rank")
    assert worker["command"][at + 1] == "$(LWS_WORKER_INDEX)"
    assert worker["command"][-1] == "--headless"
    assert "--headless" not in leader["command"]
    # a Service of the engine itself must not send requests to workers
    (service,) = [o for o in objects if o["kind"] == "Service"]
    labels = template["workerTemplate"]["metadata"]["labels"]
    assert not service["spec"]["selector"].items() <= labels.items()


def test_a_name_that_looks_like_a_reference_stays_as_it_is() -> None:
    name = "odd$(HOME)name"
    (file,) = export_plan(COLOCATED, "kubernetes", context(COLOCATED, model=name))
    engine = next(iter(yaml.safe_load_all(file.text)))
    command = engine["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[2] == "odd$$(HOME)name"


@pytest.mark.parametrize("name", ["org/Model_v1.5", "8b", "é", "x" * 200, "---"])
def test_object_names_are_dns_labels(name: str) -> None:
    import re

    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,29}[a-z0-9])?", object_name(name))
    assert object_name("x" * 200) != object_name("x" * 201)


def test_llm_d_roles_reach_each_other() -> None:
    values, picker = (
        yaml.safe_load(f.text) for f in export_plan(DISAGGREGATED, "llm-d", context(DISAGGREGATED))
    )
    assert values["routing"]["proxy"]["enabled"] is True
    assert values["multinode"] is True
    port = str(values["routing"]["proxy"]["targetPort"])
    assert f"--port {port} " in values["decode"]["containers"][0]["command"][2]
    prefill = values["prefill"]["containers"][0]["command"]
    assert prefill[prefill.index("--port") + 1] == str(values["routing"]["servicePort"])
    known = {p["type"] for p in picker["plugins"]}
    used = {p["pluginRef"] for s in picker["schedulingProfiles"] for p in s["plugins"]}
    assert used <= known


def test_dynamo_types_follow_the_roles() -> None:
    (graph,) = load(DISAGGREGATED, "dynamo")
    types = [c["type"] for c in graph["spec"]["components"]]
    assert types == ["frontend", "prefill", "decode"]
    assert graph["spec"]["components"][2]["multinode"]["nodeCount"] == 2
