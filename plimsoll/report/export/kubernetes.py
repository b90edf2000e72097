"""Kubernetes: a Deployment for each pool, or a LeaderWorkerSet where a replica spans hosts.

One Service leads to the only engine, or to the router when there are several; the router finds
the engines by label. Device counts are the plan's; CPU and host memory are left to the
cluster's defaults. Sources: kubernetes.io API reference; LeaderWorkerSet v0.10 (api and
docs/examples: LWS_LEADER_ADDRESS, LWS_WORKER_INDEX); service discovery options of
sglang-router 0.3.2 and vllm-router 0.1.17.
"""

from typing import Any

from plimsoll.report.export import sglang, sglang_arguments, trtllm, vllm_arguments
from plimsoll.report.export.contract import ExportContext, ExportedFile, refuse
from plimsoll.report.export.header import comment, header
from plimsoll.report.export.layout import FIRST_PORT, check_plan, hosts_per_replica, pool_names
from plimsoll.report.export.pods import (
    IMAGES,
    device_resource,
    node_selector,
    object_name,
    probes,
    shared_memory,
)
from plimsoll.report.export.routing import (
    SGLANG_ROUTER,
    VLLM_ROUTER,
    policy_arguments,
    router_notes,
)
from plimsoll.report.export.shell import Launch
from plimsoll.report.export.site import Site
from plimsoll.report.export.yaml_text import documents, mapping
from plimsoll.spec.plan import ServingPlan

__all__ = ["VERSIONS", "export"]

VERSIONS = (
    "Kubernetes 1.29 and later",
    "LeaderWorkerSet v0.10",
    "vLLM 0.33.0",
    "SGLang 0.5.23",
    "TensorRT-LLM 1.2.1",
    VLLM_ROUTER,
    SGLANG_ROUTER,
)
TARGET = "kubernetes"
CONFIG_FOLDER = "/etc/plimsoll"


def _launch(plan: ServingPlan, index: int, context: ExportContext, site: Site) -> Launch:
    if plan.engine == "vllm":
        return vllm_arguments.launch(plan, index, context, site, TARGET)
    if plan.engine == "sglang":
        return sglang_arguments.launch(plan, index, context, site, TARGET)
    name = pool_names(plan)[index]
    return trtllm.launch(context, f"{CONFIG_FOLDER}/{name}.yaml", site.port, {})


def _literal(word: str) -> str:
    """A word as Kubernetes passes it on unchanged: only our own references are expanded."""
    if word.startswith("$(LWS_"):
        return word
    return word.replace("$(", "$$(")


def _container(
    plan: ServingPlan, index: int, context: ExportContext, site: Site, devices: int
) -> dict[str, Any]:
    launch = _launch(plan, index, context, site)
    env: list[dict[str, Any]] = [{"name": k, "value": v} for k, v in launch.env.items()]
    if plan.engine == "vllm" and plan.pools[index].role != "both":
        pod_ip = {"fieldRef": {"fieldPath": "status.podIP"}}
        env.append({"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": pod_ip})
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    if plan.engine == "trtllm":
        mounts.append({"name": "config", "mountPath": CONFIG_FOLDER})
    container: dict[str, Any] = {
        "name": "engine",
        "image": IMAGES[plan.engine],
        "command": [_literal(word) for word in launch.argv],
    }
    if env:
        container["env"] = env
    container["resources"] = {
        "limits": {device_resource(plan, index, context, TARGET): str(devices)}
    }
    container["volumeMounts"] = mounts
    if site.host_rank == "0":
        container["ports"] = [{"name": "http", "containerPort": FIRST_PORT}]
        container.update(probes(FIRST_PORT))
    return container


def _pod(
    plan: ServingPlan,
    index: int,
    context: ExportContext,
    labels: dict[str, str],
    site: Site,
    devices: int,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"labels": labels}
    if plan.engine == "sglang" and plan.pools[index].role == "prefill" and site.host_rank == "0":
        port = str(sglang_arguments.bootstrap_port(site))
        metadata["annotations"] = {"sglang.ai/bootstrap-port": port}
    volumes: list[dict[str, Any]] = [shared_memory()]
    if plan.engine == "trtllm":
        name = f"{object_name(context.name)}-{pool_names(plan)[index]}"
        volumes.append({"name": "config", "configMap": {"name": name}})
    return {
        "metadata": metadata,
        "spec": {
            "nodeSelector": node_selector(plan, index, context, TARGET),
            "containers": [_container(plan, index, context, site, devices)],
            "volumes": volumes,
        },
    }


def _pool_objects(plan: ServingPlan, index: int, context: ExportContext) -> list[dict[str, Any]]:
    pool, facts = plan.pools[index], context.pools[index]
    app = object_name(context.name)
    name = f"{app}-{pool_names(plan)[index]}"
    labels = {"app": app, "pool": name, "role": pool.role}
    hosts = hosts_per_replica(pool, facts, index, TARGET)
    devices = pool.parallel.num_devices // hosts
    objects: list[dict[str, Any]] = []
    if plan.engine == "trtllm":
        settings = trtllm.engine_settings(plan, index, context, TARGET)
        data = {f"{pool_names(plan)[index]}.yaml": mapping(settings)}
        objects.append(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
        )
    if hosts == 1:
        template = _pod(plan, index, context, labels, Site(), devices)
        spec = {"replicas": pool.replicas, "selector": {"matchLabels": labels}}
        objects.append(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name, "labels": labels},
                "spec": {**spec, "template": template},
            }
        )
        return objects
    head = "$(LWS_LEADER_ADDRESS)"
    leader = Site(num_hosts=hosts, head=head)
    worker = Site(num_hosts=hosts, head=head, host_rank="$(LWS_WORKER_INDEX)")
    followers = {"app": app, "pool": name, "role": "worker"}
    objects.append(
        {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "replicas": pool.replicas,
                "leaderWorkerTemplate": {
                    "size": hosts,
                    "restartPolicy": "RecreateGroupOnPodRestart",
                    "leaderTemplate": _pod(plan, index, context, labels, leader, devices),
                    "workerTemplate": _pod(plan, index, context, followers, worker, devices),
                },
            },
        }
    )
    return objects


def _router_arguments(plan: ServingPlan, app: str) -> tuple[str, list[str]]:
    """The image and the words of the router, finding the engines by label."""
    if plan.engine == "trtllm":
        refuse(
            TARGET,
            "engine",
            "trtllm with several engines",
            "no router that finds its engines by label stands before them",
            "use one replica, or the trtllm target on bare hosts",
        )
    words = ["--host", "0.0.0.0", "--port", str(FIRST_PORT), *policy_arguments(plan)]
    words += ["--service-discovery", "--service-discovery-port", str(FIRST_PORT)]
    disaggregated = plan.router.kind == "disaggregated"
    if disaggregated:
        words += ["--prefill-selector", f"app={app}", "role=prefill"]
        words += ["--decode-selector", f"app={app}", "role=decode"]
    else:
        words += ["--selector", f"app={app}", "role=both"]
    if plan.engine == "vllm":
        mode = ["--vllm-pd-disaggregation", "--kv-connector", "nixl"] if disaggregated else []
        install = 'pip install --no-cache-dir vllm-router==0.1.17 && exec vllm-router "$@"'
        return IMAGES["vllm-router"], ["/bin/sh", "-c", install, "vllm-router", *words, *mode]
    mode = ["--pd-disaggregation"] if disaggregated else []
    return IMAGES["sglang-router"], [
        *("python3", "-m", "sglang_router.launch_router"),
        *words,
        *mode,
    ]


def _router_objects(plan: ServingPlan, app: str) -> list[dict[str, Any]]:
    name = f"{app}-router"
    labels = {"app": app, "role": "router"}
    image, words = _router_arguments(plan, app)
    namespace = {"fieldRef": {"fieldPath": "metadata.namespace"}}
    words += ["--service-discovery-namespace", "$(NAMESPACE)"]
    container = {
        "name": "router",
        "image": image,
        "command": words,
        "env": [{"name": "NAMESPACE", "valueFrom": namespace}],
        "ports": [{"name": "http", "containerPort": FIRST_PORT}],
        "readinessProbe": {"tcpSocket": {"port": FIRST_PORT}, "periodSeconds": 5},
    }
    pod = {
        "metadata": {"labels": labels},
        "spec": {"serviceAccountName": name, "containers": [container]},
    }
    rbac = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "Role",
            "metadata": {"name": name},
            "rules": [
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
            ],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name}],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "labels": labels},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod},
        },
    ]


def export(plan: ServingPlan, context: ExportContext) -> tuple[ExportedFile, ...]:
    """One manifest for ``kubectl apply -f``.

    Raises:
        UnsupportedError: a field has no counterpart; the message names it.
    """
    check_plan(plan, context, TARGET)
    app = object_name(context.name)
    objects: list[dict[str, Any]] = []
    for index in range(len(plan.pools)):
        objects += _pool_objects(plan, index, context)
    top = header(plan, f"For kubectl apply -f: {context.name}.", VERSIONS)
    several = sum(pool.replicas for pool in plan.pools) > 1
    if several:
        objects += _router_objects(plan, app)
        top += router_notes(plan)
        behind = {"app": app, "role": "router"}
    else:
        behind = {"app": app, "role": "both"}
    if plan.engine == "sglang":
        top += sglang.fraction_notes(plan, context, TARGET)
    port = {"name": "http", "port": 80, "targetPort": FIRST_PORT}
    objects.append(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": app},
            "spec": {"selector": behind, "ports": [port]},
        }
    )
    return (ExportedFile(name="deployment.yaml", text=comment(top) + documents(objects)),)
