"""llm-d: values of the modelservice chart, and the endpoint picker's configuration.

The chart holds one pool of decode pods (colocated pods too) and one of prefill pods, in
Deployments, or in LeaderWorkerSets when any replica spans hosts. Commands are given whole
("custom"), because the chart's own knows neither pipeline stages nor the other limits. The
picker balances tokens in flight; it has neither round robin nor a load limit on prefix
affinity. Sources: charts/llm-d-modelservice of llm-d-incubation/llm-d-modelservice v0.4.12;
plugins and deploy/config of llm-d/llm-d-inference-scheduler v0.8.0.
"""

import shlex
from typing import Any

from plimsoll.report.export import vllm_arguments
from plimsoll.report.export.bare_hosts import check_engine
from plimsoll.report.export.contract import ExportContext, ExportedFile, refuse
from plimsoll.report.export.header import comment, header
from plimsoll.report.export.layout import check_plan, hosts_per_replica
from plimsoll.report.export.pods import (
    IMAGES,
    device_resource,
    node_selector,
    object_name,
    probes,
    shared_memory,
)
from plimsoll.report.export.site import Site
from plimsoll.report.export.yaml_text import mapping
from plimsoll.spec.plan import ServingPlan

__all__ = ["VERSIONS", "export"]

VERSIONS = ("llm-d-modelservice v0.4.12", "llm-d-inference-scheduler v0.8.0", "vLLM 0.33.0")
TARGET = "llm-d"
SERVICE_PORT, BEHIND_PROXY_PORT = 8000, 8200
ACCELERATORS = {"nvidia": "nvidia", "amd": "amd", "intel": "intel-gaudi"}


def _check(plan: ServingPlan, context: ExportContext) -> None:
    check_plan(plan, context, TARGET)
    check_engine(plan, "vllm", TARGET)
    roles = [pool.role for pool in plan.pools]
    for role in ("both", "prefill", "decode"):
        if roles.count(role) > 1:
            refuse(
                TARGET,
                "pools",
                f"{roles.count(role)} pools of role {role}",
                "the chart holds one of a role",
                "merge them, or release the chart once for each with its own plan",
            )
    if plan.router.kind in ("round-robin", "prefix-affine"):
        refuse(
            TARGET,
            "router.kind",
            plan.router.kind,
            "the endpoint picker scores by tokens in flight and has neither turns nor "
            "max_load_ratio",
            "use least-work, or the kubernetes target",
        )


def _command(
    plan: ServingPlan, index: int, context: ExportContext, hosts: int, port: int
) -> list[str]:
    rank = "$LWS_WORKER_INDEX"
    site = Site(port=port, num_hosts=hosts, head="$LWS_LEADER_ADDRESS", host_rank="0")
    launch = vllm_arguments.launch(plan, index, context, site, TARGET)
    if hosts == 1:
        return [word.replace("$(", "$$(") for word in launch.argv]
    words = [shlex.quote(word) for word in launch.argv]
    words[words.index("--node-rank") + 1] = f'"{rank}"'
    words[words.index("--master-addr") + 1] = '"$LWS_LEADER_ADDRESS"'
    line = " ".join(words).replace("$(", "$$(")
    follow = f'if [ "{rank}" != 0 ]; then set -- --headless; fi; '
    return ["/bin/sh", "-c", f'{follow}exec {line} "$@"']


def _role(plan: ServingPlan, index: int, context: ExportContext) -> dict[str, Any]:
    pool = plan.pools[index]
    hosts = hosts_per_replica(pool, context.pools[index], index, TARGET)
    devices = str(pool.parallel.num_devices // hosts)
    resource = device_resource(plan, index, context, TARGET)
    port = BEHIND_PROXY_PORT if pool.role == "decode" else SERVICE_PORT
    env: list[dict[str, Any]] = []
    if pool.role != "both":
        env = [
            {"name": "VLLM_NIXL_SIDE_CHANNEL_PORT", "value": "5600"},
            {
                "name": "VLLM_NIXL_SIDE_CHANNEL_HOST",
                "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
            },
        ]
    container: dict[str, Any] = {
        "name": "vllm",
        "image": IMAGES["vllm"],
        "modelCommand": "custom",
        "command": _command(plan, index, context, hosts, port),
        "env": env,
        "ports": [{"containerPort": port, "name": "metrics", "protocol": "TCP"}],
        "resources": {"limits": {resource: devices}, "requests": {resource: devices}},
        "mountModelVolume": True,
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    if hosts == 1:
        container.update(probes(port))
    return {
        "create": True,
        "replicas": pool.replicas,
        "parallelism": {
            "tensor": pool.parallel.tp,
            "data": pool.parallel.attention_dp,
            "dataLocal": max(1, pool.parallel.attention_dp // hosts),
            "workers": hosts,
        },
        "accelerator": {"type": ACCELERATORS[context.pools[index].vendor.lower()]},
        "nodeSelector": node_selector(plan, index, context, TARGET),
        "containers": [container],
        "volumes": [shared_memory()],
    }


def _picker(disaggregated: bool) -> dict[str, Any]:
    scorer = {"pluginRef": "token-load-scorer", "weight": 1}
    base = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig"}
    shared = [
        {"type": "inflight-load-producer"},
        {"type": "token-load-scorer"},
        {"type": "max-score-picker"},
    ]
    if not disaggregated:
        profile = {
            "name": "default",
            "plugins": [scorer, {"pluginRef": "max-score-picker"}],
        }
        handler = {"type": "single-profile-handler"}
        return {**base, "plugins": [*shared, handler], "schedulingProfiles": [profile]}
    handler_parameters = {"deciders": {"prefill": "always-disagg-pd-decider"}}
    plugins = [
        *shared,
        {"type": "prefill-filter"},
        {"type": "decode-filter"},
        {"type": "always-disagg-pd-decider"},
        {"type": "disagg-profile-handler", "parameters": handler_parameters},
    ]
    profiles = [
        {
            "name": side,
            "plugins": [
                {"pluginRef": f"{side}-filter"},
                scorer,
                {"pluginRef": "max-score-picker"},
            ],
        }
        for side in ("prefill", "decode")
    ]
    return {**base, "plugins": plugins, "schedulingProfiles": profiles}


def export(plan: ServingPlan, context: ExportContext) -> tuple[ExportedFile, ...]:
    """``values.yaml`` of the chart and the picker's configuration.

    Raises:
        UnsupportedError: a field has no counterpart; the message names it.
    """
    _check(plan, context)
    if context.model.startswith(("/", ".")):
        refuse(
            TARGET,
            "model",
            context.model,
            "the chart mounts models from a hub or a volume claim",
            "give the hub id the model is known by",
        )
    sides: dict[str, dict[str, Any]] = {}
    spans = False
    for index, pool in enumerate(plan.pools):
        sides["prefill" if pool.role == "prefill" else "decode"] = _role(plan, index, context)
        spans |= hosts_per_replica(pool, context.pools[index], index, TARGET) > 1
    disaggregated = "prefill" in sides
    values: dict[str, Any] = {
        "fullnameOverride": object_name(context.name),
        "multinode": spans,
        "modelArtifacts": {
            "name": context.name,
            "uri": f"hf://{context.model}",
            "mountPath": "/model-cache",
            "labels": {
                "llm-d.ai/inference-serving": "true",
                "llm-d.ai/model": object_name(context.name),
            },
        },
        "routing": {
            "servicePort": SERVICE_PORT,
            "proxy": {
                "enabled": disaggregated,
                "targetPort": BEHIND_PROXY_PORT,
                "connector": "nixlv2",
            },
        },
        "decode": sides["decode"],
        "prefill": sides.get("prefill", {"create": False, "replicas": 0}),
    }
    top = header(plan, f"Values of the modelservice chart: {context.name}.", VERSIONS)
    files = [ExportedFile(name="values.yaml", text=comment(top) + mapping(values))]
    top = header(plan, "For the endpoint picker of the inference pool.", VERSIONS)
    picker = comment(top) + mapping(_picker(disaggregated))
    files.append(ExportedFile(name="endpoint-picker.yaml", text=picker))
    return tuple(files)
