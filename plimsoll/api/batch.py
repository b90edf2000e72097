"""Run a file of prompts offline, in groups that share a prefix; go on where a run was cut short."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plimsoll.api.commands import command
from plimsoll.api.serve import default_plan, kv_memory_bytes, worker_threads
from plimsoll.api.simulate import load_plan
from plimsoll.cost.clock import LinearClock
from plimsoll.report.document import Report, Table
from plimsoll.report.wording import percent_text, seconds_text
from plimsoll.serving.batch_prompts import BatchPrompt, Encoder, read_prompts
from plimsoll.serving.batch_results import Journal, result_of
from plimsoll.serving.executors.simulated import InstanceSpec, SimulatedExecutor
from plimsoll.serving.kv.prefix_hash import prefix_hashes
from plimsoll.serving.policies import ChunkedPrefillPolicy
from plimsoll.serving.routers import LeastWorkPolicy
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.plan import PrefixGroups, ServingPlan
from plimsoll.spec.workload import Workload

if TYPE_CHECKING:
    from plimsoll.serving.executors.torch.batch_run import Answered, BatchRun

__all__ = ["BatchAnswer", "BatchOptions", "batch", "lru_prefill_tokens"]

_MOST_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """``expect_tokens``: mean output to plan with, 0 for each request's limit."""

    max_tokens: int = 128
    expect_tokens: float = 0.0
    replicas: int = 1
    kv_bytes: float = 0.0
    device: str = "cpu"
    dtype: str = ""
    processes: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAnswer:
    """What a run did. Counts of tokens are of this run's prompts, without the resumed ones.

    ``lru_tokens``: prompt tokens an LRU prefix cache would have computed, -1 if not asked for.
    """

    prompts_path: str
    model: str
    out: str
    num_prompts: int
    num_resumed: int
    num_failed: int
    num_groups: int
    prompt_tokens: int
    planned_tokens: int
    computed_tokens: int
    output_tokens: int
    wall_s: float
    lru_tokens: int = -1

    @property
    def saved_fraction(self) -> float:
        """Share of prompt tokens that the plan leaves out."""
        return 1.0 - self.planned_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def report(self) -> Report:
        """See ``Answer``."""
        ran = self.num_prompts - self.num_resumed
        rows = [
            ("prompts", f"{self.num_prompts:,}", ""),
            ("  resumed", f"{self.num_resumed:,}", "answered by a run before"),
            ("  failed", f"{self.num_failed:,}", "their lines say why"),
            ("groups with a shared prefix", f"{self.num_groups:,}", ""),
            ("prompt tokens", f"{self.prompt_tokens:,}", ""),
            (
                "  to compute as planned",
                f"{self.planned_tokens:,}",
                f"{percent_text(self.saved_fraction)} saved",
            ),
            ("  computed", f"{self.computed_tokens:,}", ""),
            ("output tokens", f"{self.output_tokens:,}", ""),
            ("time", seconds_text(self.wall_s), "workers started and planned"),
        ]
        if self.lru_tokens >= 0:
            ratio = self.lru_tokens / max(self.computed_tokens, 1)
            note = f"x {ratio:.2f}: first come, first served, simulated on this batch"
            rows.insert(7, ("  with an LRU prefix cache", f"{self.lru_tokens:,}", note))
        title = f"{ran:,} prompts answered in {seconds_text(self.wall_s)}: {self.out}"
        if not ran:
            title = f"Every prompt was answered before: {self.out}"
        return Report(
            title=title,
            subtitle=self.model,
            command=command("batch", self.prompts_path, "--model", self.model, "--out", self.out),
            tables=(Table(title="Batch", columns=("", "", ""), rows=tuple(rows)),),
        )

    def data(self) -> dict[str, Any]:
        """See ``Answer``."""
        names = [name for name in self.__slots__ if name != "lru_tokens"]
        found: dict[str, Any] = {"format_version": 1, **{n: getattr(self, n) for n in names}}
        found["saved_fraction"] = self.saved_fraction
        if self.lru_tokens >= 0:
            found["lru_prefill_tokens"] = self.lru_tokens
        return found


def batch(
    prompts_path: Path,
    model: Path,
    out: Path,
    *,
    options: BatchOptions,
    explain: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Callable[[int, int, str], None] = lambda done, total, best: None,
) -> BatchAnswer:
    """Answer every prompt of a file; see ``BatchAnswer``.

    ``model`` is a folder, or a plan file whose policy is prefix-groups.

    Raises:
        SpecError: a bad line (with its number), or ``out`` is there already.
        InfeasibleError: a prompt or prefix is larger than the memory.
        UnsupportedError: torch or tokenizers is missing.
    """
    try:
        from plimsoll.serving.executors.torch.batch_run import BatchRun
        from plimsoll.serving.executors.torch.deploy import model_facts
    except ImportError as error:
        raise UnsupportedError(f"batch needs {error.name}; install plimsoll[torch]") from None
    if options.max_tokens < 1 or options.expect_tokens < 0:
        raise SpecError(
            f"--max-tokens {options.max_tokens} and --expect-tokens {options.expect_tokens:g}; "
            "expected at least 1, and 0 or more"
        )
    folder, plan = _plan(model, options)
    facts = model_facts(folder, dtype=options.dtype)
    tokenizer = _tokenizer_text(folder)
    prompts = read_prompts(
        prompts_path,
        _encoder(folder, tokenizer),
        max_tokens=options.max_tokens,
        max_model_len=min(plan.max_model_len or facts.max_context, facts.max_context),
        vocab_size=facts.vocab_size,
    )
    digest = hashlib.sha256(prompts_path.read_bytes()).hexdigest()
    key = {"prompts_sha256": digest, "model": str(folder.resolve()), "dtype": facts.dtype}
    key["max_tokens"] = str(options.max_tokens)
    with Journal(out, key) as journal:
        left = [i for i in range(len(prompts)) if i not in journal.done]
        if journal.done:
            say(f"resuming: {len(journal.done):,} of {len(prompts):,} prompts are answered")
        told = _Told(prompts, left)
        if left:
            num_replicas = sum(pool.replicas for pool in plan.pools)
            run = BatchRun(
                plan,
                facts,
                told.mine,
                tokenizer=tokenizer,
                kv_bytes=options.kv_bytes or kv_memory_bytes(num_replicas),
                expect_tokens=options.expect_tokens,
                device=options.device,
                num_threads=worker_threads(plan.num_devices),
                processes=options.processes,
            )
            say(f"planned: {run.plan.saved_fraction:.1%} of prompt tokens need not be computed")
            told.ran(run)
            with run:
                started_s = time.monotonic()
                for found in run.answers():
                    told.hear(found)
                    journal.add(left[found.place], told.result(found, folder.resolve().name))
                    progress(len(journal.done), len(prompts), "")
                told.wall_s = time.monotonic() - started_s
        journal.finish(len(prompts))
    return told.answer(
        prompts_path=str(prompts_path), model=str(model), out=str(out), explain=explain
    )


class _Told:
    """What is counted while a batch runs."""

    def __init__(self, prompts: Sequence[BatchPrompt], left: Sequence[int]) -> None:
        self.num_prompts = len(prompts)
        self.mine = [prompts[i] for i in left]
        self.wall_s = 0.0
        self._outputs = [0] * len(left)
        self._computed = self._failed = 0
        self._run: BatchRun | None = None

    def ran(self, run: "BatchRun") -> None:
        """The run that answers."""
        self._run = run

    def hear(self, found: "Answered") -> None:
        """Count an answer."""
        self._outputs[found.place] = len(found.tokens)
        self._computed += len(self.mine[found.place].tokens) - found.cached_tokens
        self._failed += bool(found.error)

    def result(self, found: "Answered", model: str) -> dict[str, Any]:
        """The line of an answer."""
        return result_of(
            self.mine[found.place],
            model=model,
            text=found.text,
            tokens=found.tokens,
            finish=found.finish,
            error=found.error,
        )

    def answer(self, *, prompts_path: str, model: str, out: str, explain: bool) -> BatchAnswer:
        """Everything, when the results are written."""
        run = self._run
        lru = -1
        if explain and run is not None:
            lru = lru_prefill_tokens(
                [prompt.tokens for prompt in self.mine],
                self._outputs,
                num_blocks=run.num_blocks,
                block_tokens=run.block_tokens,
                max_num_seqs=run.max_num_seqs,
            )
        groups = run.plan.groups if run is not None else ()
        return BatchAnswer(
            prompts_path=prompts_path,
            model=model,
            out=out,
            num_prompts=self.num_prompts,
            num_resumed=self.num_prompts - len(self.mine),
            num_failed=self._failed,
            num_groups=sum(group.prefix_tokens > 0 for group in groups),
            prompt_tokens=sum(len(prompt.tokens) for prompt in self.mine),
            planned_tokens=run.plan.prefill_tokens if run is not None else 0,
            computed_tokens=self._computed,
            output_tokens=sum(self._outputs),
            wall_s=self.wall_s,
            lru_tokens=lru,
        )


def lru_prefill_tokens(
    prompts: Sequence[Sequence[int]],
    outputs: Sequence[int],
    *,
    num_blocks: int,
    block_tokens: int,
    max_num_seqs: int,
) -> int:
    """Prompt tokens that one worker with an LRU prefix cache computes, first come, first served."""
    keys = [prefix_hashes(prompt, block_tokens) for prompt in prompts]
    number = {key: i for i, key in enumerate(dict.fromkeys(key for row in keys for key in row))}
    workload = Workload(
        name="batch",
        arrival_s=np.zeros(len(prompts)),
        prompt_tokens=np.array([len(prompt) for prompt in prompts]),
        output_tokens=np.maximum(np.array(outputs, dtype=np.int64), 1),
        prefix_keys=np.array([number[key] for row in keys for key in row], dtype=np.int64),
        prefix_start=np.cumsum([0, *(len(row) for row in keys)]),
        prefix_block_tokens=block_tokens,
    )
    longest = int((workload.prompt_tokens + workload.output_tokens).max()) + 1
    spec = InstanceSpec(
        clock=LinearClock(step_base_s=1e-3, token_s=1e-5),
        policy=ChunkedPrefillPolicy(token_budget=512),
        num_blocks=num_blocks,
        block_tokens=block_tokens,
        max_num_seqs=max_num_seqs,
        max_model_len=longest,
    )
    record = SimulatedExecutor([spec], LeastWorkPolicy()).run(workload)
    return int(record.steps.prefill_tokens.sum())


def _plan(model: Path, options: BatchOptions) -> tuple[Path, ServingPlan]:
    if model.is_dir():
        whole = default_plan(model, replicas=options.replicas, device=options.device)
        policy = PrefixGroups(token_budget=512, mean_output_tokens=options.expect_tokens)
        pool = replace(whole.pools[0], policy=policy, max_num_seqs=_MOST_AT_ONCE)
        return model, replace(whole, pools=(pool,))
    if not model.exists():
        raise SpecError(f"{model}: no such model folder or plan file")
    plan = load_plan(model)
    if any(not isinstance(pool.policy, PrefixGroups) for pool in plan.pools):
        raise SpecError(f"{model}: the policy of every pool must be prefix-groups for a batch")
    folder = Path(plan.model)
    if not folder.is_dir():
        raise SpecError(f"{model}: model = {plan.model} is no folder with a model to run")
    return folder, plan


def _tokenizer_text(folder: Path) -> str:
    file = folder / "tokenizer.json"
    if not file.exists():
        raise UnsupportedError(f"{folder} has no tokenizer.json; convert the tokenizer first")
    return file.read_text(encoding="utf-8")


def _encoder(folder: Path, tokenizer: str) -> Encoder:
    """Texts by the tokenizer; chats by the server's template, read when the first one comes."""
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(tokenizer)
    tools: list[Any] = []

    def encode(prompt: Any, style: str) -> list[int]:
        if style != "chat":
            ids: list[int] = plain.encode(prompt).ids
            return ids
        try:
            from plimsoll.serving.http.errors import ApiError
            from plimsoll.serving.http.tokens import TextTools
        except ImportError as error:
            raise UnsupportedError(
                f"chats need {error.name}; install plimsoll[torch,server]"
            ) from None
        if not tools:
            tools.append(TextTools.read(folder))
        try:
            rendered: list[int] = tools[0].chat_prompt(
                prompt, tools=None, add_generation_prompt=True, variables=None
            )
        except (ApiError, TypeError, KeyError, AttributeError) as error:
            raise SpecError(f"messages: {error}") from None
        return rendered

    return encode
