"""Small runs of the real engine for checks: a random Llama, requests, when each token came.

Workers are processes of one thread each, as many as there are instances. Weights are random, wide
enough that greedy tokens differ from prompt to prompt. Leaves out: HTTP, tokenizing.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from plimsoll.cost.clock import LinearClock
from plimsoll.models.loading import build, save
from plimsoll.serving.executors.coordinator import InstanceSpec
from plimsoll.serving.executors.torch.engine import Conversation
from plimsoll.serving.executors.torch.live_run import LiveRun
from plimsoll.serving.executors.torch.peers import Meeting
from plimsoll.serving.executors.torch.runner import Runner
from plimsoll.serving.executors.torch.worker import (
    LocalWorker,
    ProcessWorker,
    WorkerSetup,
    make_runner,
)
from plimsoll.serving.generation import SamplingParams
from plimsoll.serving.policy import ClusterPolicy, StepPolicy
from plimsoll.serving.routers import LeastWorkPolicy
from plimsoll.spec.errors import ExecutionError
from plimsoll.spec.record import RunRecord

__all__ = [
    "VOCABULARY",
    "Asked",
    "RealRun",
    "await_tokens",
    "instance",
    "prompts_of",
    "random_llama",
]

VOCABULARY = 512
_MAX_LEN = 4096
_PATIENCE_S = 300.0


def random_llama(folder: Path, *, hidden: int = 64, layers: int = 2) -> Path:
    """A checkpoint with heads of 16 numbers, two queries to a key."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 16,
        "num_key_value_heads": hidden // 32,
        "max_position_embeddings": _MAX_LEN,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
    }
    model = cast(nn.Module, build(config, dtype=torch.float32, device="cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 1.2 / hidden**0.5, generator=generator)
    save(cast(Any, model), folder)
    return folder


@dataclass
class Asked:
    """A request; ``token_at_s`` is when each of its tokens was delivered."""

    prompt: Sequence[int]
    output_tokens: int
    tokens: list[int] = field(default_factory=list)
    token_at_s: list[float] = field(default_factory=list)
    over: list[Conversation] = field(default_factory=list)

    @property
    def gaps_s(self) -> list[float]:
        """Times between its tokens."""
        return np.diff(self.token_at_s).tolist()


def instance(policy: StepPolicy, *, num_blocks: int = 2000, **more: Any) -> InstanceSpec:
    """An instance of 32 requests at once, without prefix cache."""
    settings = {
        "clock": LinearClock(),
        "policy": policy,
        "num_blocks": num_blocks,
        "max_num_seqs": 32,
        "max_model_len": _MAX_LEN,
        "prefix_caching": False,
        **more,
    }
    return InstanceSpec(**settings)


class RealRun:
    """A started engine over ``specs``; use it in a ``with`` statement. ``peers``: workers attend
    to KV they hold for each other."""

    def __init__(
        self,
        folder: Path,
        specs: Sequence[InstanceSpec],
        router: ClusterPolicy | None = None,
        *,
        link_bytes_per_s: float = float("inf"),
        copy_bytes_per_s: float = float("inf"),
        eos_ids: Sequence[int] = (),
        peers: bool = False,
        shared_attention: bool = False,
        local: bool = False,
    ) -> None:
        """``local``: workers are threads of this process, and ``runners`` are theirs."""
        self._shared_attention, self._local = shared_attention, local
        self.runners: list[Runner] = []
        self._specs = list(specs)
        self._copy_bytes_per_s = copy_bytes_per_s
        self._swap = tempfile.TemporaryDirectory(prefix="plimsoll-swap-")
        self._folder = folder
        self.live = LiveRun(
            self._specs,
            router or LeastWorkPolicy(),
            self._start,
            keep=True,
            link_bytes_per_s=link_bytes_per_s,
            eos_ids=eos_ids,
            peers=peers,
        )
        self._peers = peers
        self._met: set[int] = set()
        self.workers: list[ProcessWorker] = []
        """In the order they were started."""
        self._ends = bool(eos_ids)

    def _start(self, index: int, answer: Any) -> ProcessWorker | LocalWorker:
        spec = self._specs[index]
        meeting = None
        if self._peers and index not in self._met:
            self._met.add(index)
            file = str(Path(self._swap.name) / "meeting")
            meeting = Meeting(file=file, rank=index, world=len(self._specs))
        setup = WorkerSetup(
            folder=self._folder,
            num_blocks=spec.num_blocks,
            block_tokens=spec.block_tokens,
            num_threads=1,
            disk_folder=Path(self._swap.name),
            copy_bytes_per_s=self._copy_bytes_per_s,
            meeting=meeting,
            shared_attention=self._shared_attention,
        )
        if self._local:
            self.runners.append(make_runner(setup))
            return LocalWorker(self.runners[-1], answer)
        self.workers.append(ProcessWorker(setup, answer))
        return self.workers[-1]

    def __enter__(self) -> "RealRun":
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.close()
        self._swap.cleanup()

    def send(self, asked: Asked, *, session: int = -1) -> None:
        """Submit a request; greedy, to its full length or to an ``eos_ids`` token."""

        def deliver(token: int, logprobs: object) -> None:
            asked.token_at_s.append(time.monotonic())
            asked.tokens.append(token)

        params = SamplingParams(
            max_tokens=asked.output_tokens, temperature=0.0, ignore_eos=not self._ends
        )
        text = Conversation(asked.prompt, params, deliver=deliver, end=asked.over.append)
        self.live.submit(text, session=session)

    def wait(self) -> None:
        """Until every request has ended, and well.

        Raises:
            ExecutionError: one did not.
        """
        if not self.live.wait_idle(_PATIENCE_S) or self.live.failure:
            raise ExecutionError(f"the engine did not finish: {self.live.failure or 'too slow'}")

    def serve(self, asked: Sequence[Asked]) -> list[list[int]]:
        """Tokens of requests that all come at once."""
        for one in asked:
            self.send(one)
        self.wait()
        for one in asked:
            if one.over[0].finish not in ("length", "stop"):
                raise ExecutionError(f"a request ended with {one.over[0].error}")
        return [one.tokens for one in asked]

    @property
    def record(self) -> RunRecord:
        """Of everything so far."""
        return self.live.record()


def prompts_of(lengths: Sequence[tuple[int, int]], *, seed: int) -> list[Asked]:
    """Requests of (prompt, output) tokens with random prompts."""
    rng = np.random.default_rng(seed)
    return [Asked(rng.integers(0, VOCABULARY, n).tolist(), m) for n, m in lengths]


def await_tokens(asked: Sequence[Asked], num: int) -> None:
    """Until each has ``num`` tokens or has ended.

    Raises:
        ExecutionError: they do not come.
    """
    until_s = time.monotonic() + _PATIENCE_S
    while any(len(one.tokens) < num and not one.over for one in asked):
        if time.monotonic() > until_s:
            raise ExecutionError("the engine gives no tokens")
        time.sleep(1e-3)
