"""Dynamo: a DynamoGraphDeployment with a frontend and one component for each pool.

The frontend routes; its modes are round robin, fewest active requests, and a KV-aware cost
that has no load limit, so a prefix-affine plan is refused. Dynamo 1.6.1 brings vLLM 0.31 and
SGLang 0.5.21, whose options used here are the same. The operator adds ranks and addresses of
a component that spans hosts. Sources: examples/backends/*/deploy/v1beta1 and the API reference
of DynamoGraphDeployment (nvidia.com/v1beta1); --router-mode and --disaggregation-mode of
dynamo.frontend and dynamo.vllm 1.6.1.
"""

from typing import Any

from plimsoll.report.export import sglang, sglang_arguments, vllm_arguments
from plimsoll.report.export.contract import ExportContext, ExportedFile, refuse
from plimsoll.report.export.header import comment, header
from plimsoll.report.export.layout import check_plan, hosts_per_replica, pool_names
from plimsoll.report.export.pods import device_resource, node_selector, object_name
from plimsoll.report.export.site import Site
from plimsoll.report.export.yaml_text import mapping
from plimsoll.spec.plan import ServingPlan

__all__ = ["VERSIONS", "export"]

VERSIONS = ("Dynamo 1.6.1",)
TARGET = "dynamo"
MODES = {
    "round-robin": "round-robin",
    "least-work": "least-loaded",
    "disaggregated": "least-loaded",
}
TYPES = {"both": "worker", "prefill": "prefill", "decode": "decode"}


def _image(plan: ServingPlan) -> str:
    return f"nvcr.io/nvidia/ai-dynamo/{plan.engine}-runtime:1.6.1"


def _words(plan: ServingPlan, index: int, context: ExportContext) -> list[str]:
    role = plan.pools[index].role
    words: list[str]
    if plan.engine == "vllm":
        options = vllm_arguments.engine_arguments(plan, index, context, Site(), TARGET)
        words = ["--model", context.model]
        words += ["--disaggregation-mode", role] if role != "both" else []
    else:
        options = sglang_arguments.engine_arguments(plan, index, context, Site(), TARGET)
        words = ["--model-path", context.model]
    for flag, value in options:
        words += [flag] if value is None else [flag, value]
    return [word.replace("$(", "$$(") for word in words]


def _component(plan: ServingPlan, index: int, context: ExportContext, name: str) -> dict[str, Any]:
    pool = plan.pools[index]
    hosts = hosts_per_replica(pool, context.pools[index], index, TARGET)
    resource = device_resource(plan, index, context, TARGET)
    container = {
        "name": "main",
        "image": _image(plan),
        "command": ["python3", "-m", f"dynamo.{plan.engine}"],
        "args": _words(plan, index, context),
        "resources": {"limits": {resource: str(pool.parallel.num_devices // hosts)}},
    }
    component: dict[str, Any] = {
        "name": name,
        "type": TYPES[pool.role],
        "replicas": pool.replicas,
    }
    if hosts > 1:
        component["multinode"] = {"nodeCount": hosts}
    component["podTemplate"] = {
        "spec": {
            "nodeSelector": node_selector(plan, index, context, TARGET),
            "containers": [container],
        }
    }
    return component


def export(plan: ServingPlan, context: ExportContext) -> tuple[ExportedFile, ...]:
    """One manifest for ``kubectl apply -f``.

    Raises:
        UnsupportedError: a field has no counterpart; the message names it.
    """
    check_plan(plan, context, TARGET)
    if plan.engine == "trtllm":
        refuse(
            TARGET,
            "engine",
            plan.engine,
            "this target writes vLLM and SGLang components",
            "set engine to vllm or sglang and judge the plan again, or use the trtllm target",
        )
    if plan.router.kind not in MODES:
        refuse(
            TARGET,
            "router.kind",
            plan.router.kind,
            "Dynamo's KV-aware routing weighs prefix against load and has no max_load_ratio",
            "use least-work or round-robin, or the kubernetes target",
        )
    frontend = {
        "name": "Frontend",
        "type": "frontend",
        "replicas": 1,
        "podTemplate": {
            "spec": {
                "containers": [
                    {
                        "name": "main",
                        "image": _image(plan),
                        "command": ["python3", "-m", "dynamo.frontend"],
                        "args": ["--http-port", "8000", "--router-mode", MODES[plan.router.kind]],
                    }
                ]
            }
        },
    }
    components = [frontend]
    for index, name in enumerate(pool_names(plan)):
        components.append(_component(plan, index, context, name))
    manifest = {
        "apiVersion": "nvidia.com/v1beta1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": object_name(context.name)},
        "spec": {"components": components},
    }
    top = header(plan, f"For kubectl apply -f: {context.name}.", VERSIONS)
    if plan.router.kind != "round-robin":
        top += ("Load is counted in active requests here; the plan counts tokens to process.",)
    if plan.engine == "sglang":
        top += sglang.fraction_notes(plan, context, TARGET)
    text = comment(top) + mapping(manifest)
    return (ExportedFile(name="dynamo.yaml", text=text),)
