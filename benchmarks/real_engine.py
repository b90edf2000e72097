"""The real engine beside ``transformers`` on one machine, in one run.

A random Llama-shaped model of 0.36 B parameters; requests of mixed lengths, 16 in flight. Rivals:
``generate`` on padded batches of 16, and its continuous batching where it runs here. Then batch-1
decode against the copy bandwidth, the engine's own time per step at batch 32, and the first token
of a second request behind a shared prefix of 2,000 tokens. Each figure repeated; medians.

    python benchmarks/real_engine.py [--dtype bf16] [--device cpu] [--repeats 5] [--shape 0.35b]
        [--ahead auto]
"""

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch

from plimsoll.cost.clock import LinearClock
from plimsoll.models.loading import build, save
from plimsoll.serving.executors.coordinator import InstanceSpec
from plimsoll.serving.executors.torch.engine import Conversation
from plimsoll.serving.executors.torch.live_run import LiveRun
from plimsoll.serving.executors.torch.worker import ProcessWorker, WorkerSetup
from plimsoll.serving.generation import SamplingParams
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.routers import LeastWorkPolicy

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "bos_token_id": None,
    "eos_token_id": None,
}
SHAPES: dict[str, dict[str, int]] = {
    "0.35b": {},
    "3b": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
    },
}
"""What differs from ``CONFIG``."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
IN_FLIGHT = 16
BLOCKS = 1600


def make(folder: Path, dtype: str, device: str, shape: str = "0.35b") -> int:
    """Write the model; its number of parameters."""
    model = build(CONFIG | SHAPES[shape], dtype=DTYPES[dtype], device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.02)
            else:
                parameter.fill_(1.0)
    save(model, folder)
    return sum(p.numel() for p in model.parameters())


def requests(num: int, seed: int) -> list[tuple[list[int], int]]:
    """(prompt, output tokens): prompts of 16 to 256 tokens, outputs of 8 to 128."""
    rng = random.Random(seed)
    return [
        ([rng.randrange(32_000) for _ in range(rng.randrange(16, 257))], rng.randrange(8, 129))
        for _ in range(num)
    ]


class Ours:
    """The engine, its worker in a process of its own as ``plimsoll serve`` runs it."""

    def __init__(
        self, folder: Path, device: str, num_seqs: int = IN_FLIGHT, *, ahead: bool
    ) -> None:
        setup = WorkerSetup(
            folder=folder,
            num_blocks=BLOCKS,
            block_tokens=16,
            device=device,
            num_threads=torch.get_num_threads(),
        )
        spec = InstanceSpec(
            clock=LinearClock(),
            policy=ChunkedPrefillPolicy(token_budget=512, ahead=ahead),
            num_blocks=BLOCKS,
            max_num_seqs=num_seqs,
            max_model_len=4096,
        )
        self.run = LiveRun(
            [spec], LeastWorkPolicy(), lambda i, answer: ProcessWorker(setup, answer), keep=True
        )
        self.run.start()

    def serve(self, asked: list[tuple[list[int], int]]) -> float:
        """Seconds to serve all, 16 in flight (what runs at once is bounded by the engine)."""
        started = time.perf_counter()
        for prompt, output in asked:
            self.run.submit(
                Conversation(
                    prompt,
                    SamplingParams(max_tokens=output, temperature=0, ignore_eos=True),
                    deliver=lambda token, logprobs: None,
                    end=lambda text: None,
                )
            )
        self.run.wait_idle()
        return time.perf_counter() - started


def padded(model: torch.nn.Module, asked: list[tuple[list[int], int]]) -> float:
    """Seconds of ``generate`` on batches of 16 in order, each until its longest output."""
    device = next(model.parameters()).device
    started = time.perf_counter()
    for first in range(0, len(asked), IN_FLIGHT):
        batch = asked[first : first + IN_FLIGHT]
        longest = max(len(prompt) for prompt, _ in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for row, (prompt, _) in enumerate(batch):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        most = max(output for _, output in batch)
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=mask, max_new_tokens=most, min_new_tokens=most,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip
        _settled(device.type)
    return time.perf_counter() - started


def continuous(model: torch.nn.Module, asked: list[tuple[list[int], int]]) -> float | str:
    """Seconds of its continuous batching; a sentence where it does not run."""
    from transformers import GenerationConfig

    most = max(output for _, output in asked)
    config = GenerationConfig(max_new_tokens=most, do_sample=False, eos_token_id=-1, pad_token_id=0)
    started = time.perf_counter()
    try:
        out = model.generate_batch([prompt for prompt, _ in asked], generation_config=config)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    if len(out) != len(asked):
        return f"gave {len(out)} of {len(asked)} answers"
    return time.perf_counter() - started


def _settled(device: str) -> None:
    """Wait until a GPU has done what it was told."""
    if device != "cpu":
        torch.cuda.synchronize()


def copy_bytes_per_s(device: str) -> float:
    """Bytes read and written a second by a large copy."""
    source = torch.ones(64 * 2**20, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(7):
        _settled(device)
        started = time.perf_counter()
        target.copy_(source)
        _settled(device)
        best = max(best, 2 * source.numel() * 4 / (time.perf_counter() - started))
    return best


def decode_alone(ours: Ours) -> float:
    """Seconds a token at batch 1."""
    before = len(ours.run.decisions)
    seconds = ours.serve([([5] * 16, 65)])
    assert len(ours.run.decisions) > before
    return seconds / 65


def overhead(ours: Ours) -> float:
    """Share of the time that no forward pass (with its draw) was running, at batch 32."""
    busy = ours.run.engines[0].busy_s
    seconds = ours.serve([([i + 1] * 64, 96) for i in range(32)])
    return 1 - (ours.run.engines[0].busy_s - busy) / seconds


def prefix(ours: Ours, seed: int) -> float:
    """First-token time of a second request behind 2,000 shared tokens, over the first one's."""
    rng = random.Random(1000 + seed)
    shared = [rng.randrange(32_000) for _ in range(2000)]
    first = ours.serve([([*shared, 1, 2, 3], 1)])
    return ours.serve([([*shared, 4, 5, 6], 1)]) / first


def main() -> None:
    """Run everything and print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", default="bf16", choices=DTYPES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--ahead", default="auto", choices=("auto", "yes", "no"))
    parser.add_argument("--shape", default="0.35b", choices=SHAPES)
    options = parser.parse_args()
    from transformers import LlamaForCausalLM

    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num = make(folder, options.dtype, options.device, options.shape)
        rival = LlamaForCausalLM.from_pretrained(folder, dtype=DTYPES[options.dtype])
        rival = rival.to(options.device).eval()
        ahead = options.ahead == "yes" or (options.ahead == "auto" and options.device != "cpu")
        ours = Ours(folder, options.device, ahead=ahead)
        wide = Ours(folder, options.device, num_seqs=32, ahead=ahead)
        warm = requests(4, 99)
        ours.serve(warm)
        padded(rival, warm[:2])
        again: float | str = 0.0
        hidden = (CONFIG | SHAPES[options.shape])["hidden_size"]
        size = (num - CONFIG["vocab_size"] * hidden) * DTYPES[options.dtype].itemsize
        for repeat in range(options.repeats):
            asked = requests(options.requests, repeat)
            tokens = sum(output for _, output in asked)
            mine, theirs = ours.serve(asked), padded(rival, asked)
            found.setdefault("ours tokens/s", []).append(tokens / mine)
            found.setdefault("generate tokens/s", []).append(tokens / theirs)
            found.setdefault("ours / generate", []).append(theirs / mine)
            if repeat == 0:
                again = continuous(rival, asked)
            copied = copy_bytes_per_s(options.device)
            alone = decode_alone(ours)
            found.setdefault("batch-1 share of copy bound", []).append(size / copied / alone)
            found.setdefault("engine overhead at batch 32", []).append(overhead(wide))
            found.setdefault("prefix TTFT ratio", []).append(prefix(ours, repeat))
        ours.run.close()
        wide.run.close()
    summary = {
        key: {"median": statistics.median(v), "min": min(v), "max": max(v)}
        for key, v in found.items()
    }
    setting = {
        "parameters": num,
        "dtype": options.dtype,
        "device": options.device,
        "in flight": IN_FLIGHT,
        "requests": options.requests,
        "repeats": options.repeats,
        "torch": torch.__version__,
        "steps formed ahead": ahead,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }
    rate = again if isinstance(again, str) else {"seconds": again}
    print(json.dumps({"setting": setting, "figures": summary, "continuous": rate}, indent=1))


if __name__ == "__main__":
    main()
