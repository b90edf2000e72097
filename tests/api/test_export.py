"""What exporters are told beside the plan: hosts of the fleet, the format on disk."""

from plimsoll.api.export import context_for, export
from plimsoll.spec.dtype import DType
from plimsoll.spec.plan import Parallel, Pool, ServingPlan


def plan(fleet: str, model: str = "llama-3.1-70b", **changes: object) -> ServingPlan:
    settings = {"device": "H100-SXM", "replicas": 2, "parallel": Parallel(tp=4), **changes}
    return ServingPlan(model=model, fleet=fleet, pools=(Pool(**settings),))


def test_hosts_are_as_large_as_the_nodes_of_the_fleet():
    assert context_for(plan("8xH100-SXM")).pools[0].devices_per_host == 8
    small = plan("2x(4xH100-SXM)")
    assert context_for(small).pools[0].devices_per_host == 4
    names = {file.name for file in export(small, "vllm").files}
    assert {"serve-host0.sh", "serve-host1.sh"} <= names
    rack = ServingPlan(model="llama-3.1-70b", fleet="8xGB200", pools=(Pool(device="GB200"),))
    assert context_for(rack).pools[0].devices_per_host == 4


def test_the_format_on_disk_is_that_of_the_quantized_matrices():
    formats = {
        "llama-3.1-70b": DType.BF16,
        "llama-3.1-70b-fp8": DType.FP8,
        "qwen3-32b-fp8": DType.FP8_BLOCK,
        "gpt-oss-20b": DType.MXFP4,
        "deepseek-v3.1-nvfp4": DType.NVFP4,
    }
    for model, expected in formats.items():
        assert context_for(plan("8xH100-SXM", model)).checkpoint_dtype is expected
