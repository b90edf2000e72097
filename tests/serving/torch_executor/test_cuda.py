"""The engine on a GPU, where there is one: the same tokens as on the CPU, in any company."""

from pathlib import Path
from typing import Any

import pytest
import torch

from plimsoll.models.context import FullContext
from plimsoll.models.loading import load
from plimsoll.serving.executors.coordinator import InstanceSpec
from plimsoll.serving.executors.torch.live_run import LiveRun
from plimsoll.serving.executors.torch.messages import Register, StepWork, Work
from plimsoll.serving.executors.torch.worker import ProcessWorker, WorkerSetup, make_runner
from plimsoll.serving.generation import SamplingParams
from plimsoll.serving.policies import ChunkedPrefillPolicy, PrefillFirstPolicy, SplitFusePolicy
from plimsoll.serving.policy import ClusterPolicy, StepPolicy
from plimsoll.serving.routers import DisaggPolicy, LeastWorkPolicy
from tests.models.checkpoints import full_logits, random_tokens, small_config, write_checkpoint
from tests.models.test_bamba import CASES as BAMBA
from tests.models.test_bamba import STATE_SPACE
from tests.models.test_deepseek import CASES as DEEPSEEK
from tests.models.test_deepseek import LATENT
from tests.models.test_dense_families import CASES as DENSE
from tests.models.test_experts import CASES as EXPERTS
from tests.serving.torch_executor.tiny_llama import make_folder, requests, serve_all, spec

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

NUM = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"))


def serve(
    folder: Path, specs: list[InstanceSpec], device: str, router: ClusterPolicy | None = None
) -> tuple[list[list[int]], LiveRun]:
    """Tokens of the same requests on a device, workers in processes."""

    def start(index: int, answer: Any) -> ProcessWorker:
        setup = WorkerSetup(
            folder=folder,
            num_blocks=specs[index].num_blocks,
            block_tokens=specs[index].block_tokens,
            device=device,
        )
        return ProcessWorker(setup, answer)

    run = LiveRun(specs, router or LeastWorkPolicy(), start, keep=True, check_books=True)
    run.start()
    return serve_all(run, requests(NUM, shared=64)), run


@pytest.fixture(scope="module")
def on_cpu(folder: Path) -> list[list[int]]:
    return serve(folder, [spec(ChunkedPrefillPolicy(token_budget=512), 3000)], "cpu")[0]


@pytest.mark.parametrize(
    ("policy", "num_blocks", "more"),
    [
        (ChunkedPrefillPolicy(token_budget=64), 3000, {}),
        (ChunkedPrefillPolicy(token_budget=64, ahead=True), 3000, {}),
        (ChunkedPrefillPolicy(token_budget=64, ahead=True), 50, {}),
        (SplitFusePolicy(token_budget=512), 3000, {}),
        (PrefillFirstPolicy(), 60, {}),
        (ChunkedPrefillPolicy(token_budget=64, preempt="swap"), 50, {"host_blocks": 60}),
        (ChunkedPrefillPolicy(token_budget=64), 3000, {"prefix_caching": False}),
    ],
    ids=str,
)
def test_same_tokens_as_on_the_cpu(
    folder: Path,
    on_cpu: list[list[int]],
    policy: StepPolicy,
    num_blocks: int,
    more: dict[str, object],
) -> None:
    tokens, run = serve(folder, [spec(policy, num_blocks, **more)], "cuda:0")
    assert tokens == on_cpu
    if num_blocks < 100:
        assert run.num_preempted > 0


def test_handed_over_between_two_workers_on_one_gpu(folder: Path, on_cpu: list[list[int]]) -> None:
    policy = PrefillFirstPolicy()
    specs = [spec(policy, 3000, role="prefill"), spec(policy, 3000, role="decode")]
    assert serve(folder, specs, "cuda:0", DisaggPolicy())[0] == on_cpu


FAMILIES = DENSE | EXPERTS
FAMILIES |= {name: (kind, LATENT | changes) for name, (kind, changes) in DEEPSEEK.items()}
FAMILIES |= {f"bamba {name}": ("bamba", STATE_SPACE | changes) for name, changes in BAMBA.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_scores_as_on_the_cpu(family: str, tmp_path: Path) -> None:
    kind, changes = FAMILIES[family]
    write_checkpoint(small_config(kind, **changes), tmp_path)
    tokens = random_tokens(24)
    cpu, gpu = load(tmp_path), load(tmp_path, device="cuda:0")
    context = FullContext(1, 24)
    with torch.inference_mode():
        hidden = gpu(tokens.cuda(), context.positions("cuda:0"), context)
        found = gpu.logits(hidden).float().cpu()
    expected = full_logits(cpu, tokens)
    assert torch.isfinite(expected).all()
    assert (found - expected).abs().max() < 1e-3


@torch.inference_mode()
def test_decodes_are_replayed_graphs(folder: Path) -> None:
    """Scores of a replay are those of a pass launched kernel by kernel, for odd sizes too."""
    runner = make_runner(
        WorkerSetup(folder=folder, num_blocks=400, block_tokens=16, device="cuda:0")
    )
    assert runner.graphs is not None
    params = SamplingParams(max_tokens=99, temperature=0.0)
    blocks = [list(range(i * 20, i * 20 + 20)) for i in range(5)]
    lengths = (3, 16, 17, 100, 300)
    prompts = [[(7 * i + j) % 500 for j in range(n)] for i, n in enumerate(lengths)]
    begun = [Register(i, p, [], params) for i, p in enumerate(prompts)]
    runner.step(StepWork(0, 0, begun, [Work(i, p, 0, blocks[i], 0) for i, p in enumerate(prompts)]))
    for count in (1, 3, 5, 5):
        work = [Work(i, [11 + i], lengths[i], blocks[i], 1) for i in range(count)]
        replayed = runner._logits(work).clone()
        graphs, runner.graphs = runner.graphs, None
        launched = runner._logits(work)
        runner.graphs = graphs
        assert (replayed - launched).abs().max() < 1e-4
    assert runner.graphs.num_captured == 3
