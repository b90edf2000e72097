"""What the Kubernetes targets share: names, images, device requests, the parts of a pod.

A pod asks for the devices of one host of a replica and picks its nodes by the product label
that GPU feature discovery sets (the driver's product name with dashes for spaces). Sources:
README of NVIDIA k8s-device-plugin (gpu-feature-discovery), kubernetes.io API reference.
"""

import hashlib
import re
from typing import Any

from plimsoll.report.export.contract import ExportContext, refuse
from plimsoll.spec.plan import ServingPlan

__all__ = [
    "HEALTH_PATH",
    "IMAGES",
    "device_resource",
    "node_selector",
    "object_name",
    "probes",
    "shared_memory",
]

IMAGES = {
    "vllm": "vllm/vllm-openai:v0.33.0",
    "sglang": "lmsysorg/sglang:v0.5.23",
    "trtllm": "nvcr.io/nvidia/tensorrt-llm/release:1.2.1",
    "vllm-router": "python:3.12-slim",
    "sglang-router": "lmsysorg/sgl-model-gateway:v0.3.2",
}
HEALTH_PATH = "/health"
RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel": "habana.ai/gaudi"}


def object_name(text: str) -> str:
    """A name Kubernetes accepts, the same for the same text and telling long ones apart."""
    clean = re.sub(r"[^a-z0-9]+", "-", text.rsplit("/", 1)[-1].lower()).strip("-")
    if clean and clean[0].isdigit():
        clean = f"m-{clean}"
    if not clean or len(clean) > 30:
        digest = hashlib.sha256(text.encode()).hexdigest()[:6]
        clean = f"{clean[:23].strip('-') or 'model'}-{digest}"
    return clean


def device_resource(plan: ServingPlan, index: int, context: ExportContext, target: str) -> str:
    """The resource name a pod of the pool asks for."""
    vendor = context.pools[index].vendor.lower()
    if vendor not in RESOURCES:
        refuse(
            target,
            f"pools[{index}].device",
            plan.pools[index].device,
            f"no device plugin resource is known for vendor {vendor!r}",
            f"give the vendor in the context, one of {', '.join(RESOURCES)}",
        )
    return RESOURCES[vendor]


def node_selector(
    plan: ServingPlan, index: int, context: ExportContext, target: str
) -> dict[str, str]:
    """The node label that finds the pool's device."""
    device = plan.pools[index].device
    given = context.node_selector.get(device, "")
    if given:
        key, equals, value = given.partition("=")
        if not equals or not key or not value:
            refuse(
                target,
                f"node_selector of {device}",
                given,
                "not a node label",
                "write it as key=value",
            )
        return {key: value}
    facts = context.pools[index]
    if facts.vendor.lower() != "nvidia" or not facts.product:
        refuse(
            target,
            f"pools[{index}].device",
            device,
            "the label its nodes carry is not known",
            "give node_selector, for example {'" + device + "': 'nvidia.com/gpu.product=NAME'}",
        )
    return {"nvidia.com/gpu.product": facts.product.replace(" ", "-")}


def probes(port: int) -> dict[str, Any]:
    """Up to an hour to load weights and capture graphs, then ready while ``/health`` answers."""
    get = {"httpGet": {"path": HEALTH_PATH, "port": port}}
    return {
        "startupProbe": {**get, "periodSeconds": 10, "failureThreshold": 360},
        "readinessProbe": {**get, "periodSeconds": 5, "failureThreshold": 3},
    }


def shared_memory() -> dict[str, Any]:
    """The volume workers of one engine exchange messages through."""
    return {"name": "shm", "emptyDir": {"medium": "Memory"}}
