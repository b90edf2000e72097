"""A small random Llama in a folder, and requests to run on it."""

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch

from plimsoll.cost.clock import LinearClock
from plimsoll.models.loading import build, save
from plimsoll.serving.executors.coordinator import InstanceSpec
from plimsoll.serving.executors.torch.engine import Conversation
from plimsoll.serving.executors.torch.live_run import LiveRun
from plimsoll.serving.executors.torch.worker import LocalWorker, WorkerSetup, make_runner
from plimsoll.serving.generation import SamplingParams
from plimsoll.serving.policy import ClusterPolicy, StepPolicy
from plimsoll.serving.routers import LeastWorkPolicy

VOCABULARY = 512
CONTEXT = 1024
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}


def make_folder(folder: Path) -> Path:
    """Write the model."""
    model = build(CONFIG, dtype=torch.float32, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # type: ignore[attr-defined]
            parameter.normal_(0.0, 0.15, generator=generator)
    save(model, folder)
    return folder


@dataclass
class Asked:
    """A request and what came of it."""

    prompt: list[int]
    params: SamplingParams
    delivered: list[int] = field(default_factory=list)
    over: list[Conversation] = field(default_factory=list)

    def conversation(self) -> Conversation:
        return Conversation(
            self.prompt,
            self.params,
            deliver=lambda token, logprobs: self.delivered.append(token),
            end=self.over.append,
        )


def requests(num: int, *, seed: int = 0, longest: int = 200, shared: int = 0) -> list[Asked]:
    """``num`` requests; a third of them begin with the same ``shared`` tokens."""
    rng = random.Random(seed)
    prefix = [rng.randrange(VOCABULARY) for _ in range(shared)]
    found = []
    for i in range(num):
        prompt = [rng.randrange(VOCABULARY) for _ in range(rng.randrange(1, longest))]
        if shared and i % 3 == 0:
            prompt = prefix + prompt[: max(1, len(prompt) // 4)]
        sampled = i % 5 == 4
        params = SamplingParams(
            max_tokens=rng.randrange(1, 50), temperature=0.8 if sampled else 0.0, seed=i
        )
        found.append(Asked(prompt, params))
    return found


def spec(policy: StepPolicy, num_blocks: int, **more: object) -> InstanceSpec:
    """An instance for the small model."""
    settings: dict[str, object] = {
        "clock": LinearClock(),
        "policy": policy,
        "num_blocks": num_blocks,
        "max_num_seqs": 32,
        "max_model_len": CONTEXT,
    }
    return InstanceSpec(**(settings | more))  # type: ignore[arg-type]


def open_run(
    folder: Path,
    specs: list[InstanceSpec],
    *,
    router: ClusterPolicy | None = None,
    eos_ids: tuple[int, ...] = (),
    disk_folder: Path | None = None,
    host_bytes: float = float("inf"),
    tokenizer: str = "",
    link_bytes_per_s: float = float("inf"),
    copy_bytes_per_s: float = float("inf"),
    shared_attention: bool = False,
) -> LiveRun:
    """A started run in threads, that checks its books at every turn."""

    def start(index: int, answer: object) -> LocalWorker:
        setup = WorkerSetup(
            folder=folder,
            num_blocks=specs[index].num_blocks,
            block_tokens=specs[index].block_tokens,
            eos_ids=eos_ids,
            disk_folder=disk_folder,
            host_bytes=host_bytes,
            tokenizer=tokenizer,
            copy_bytes_per_s=copy_bytes_per_s,
            shared_attention=shared_attention,
        )
        return LocalWorker(make_runner(setup), answer)  # type: ignore[arg-type]

    run = LiveRun(
        specs,
        router or LeastWorkPolicy(),
        start,
        eos_ids=eos_ids,
        keep=True,
        check_books=True,
        link_bytes_per_s=link_bytes_per_s,
    )
    run.start()
    return run


def serve_all(run: LiveRun, asked: list[Asked], *, one_by_one: bool = False) -> list[list[int]]:
    """The tokens of every request."""
    for one in asked:
        run.submit(one.conversation())
        if one_by_one:
            assert run.wait_idle(60)
    assert run.wait_idle(120)
    run.close()
    assert not run.failure
    assert [one.over[0].tokens for one in asked] == [one.delivered for one in asked]
    return [one.delivered for one in asked]
