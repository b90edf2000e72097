"""A batch of prompts that is known ahead, run on real workers in groups that share a prefix.

Groups are planned for the memory that a worker has and dealt to the workers by predicted work;
every request is sent at once and answered as it ends, in whatever order. A request whose worker was
lost is sent again, to run after the plan.
Leaves out: pipelines' own planning; answers before a request has ended.
Source: arXiv 2412.03594.
"""

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from plimsoll.serving.batch_prompts import BatchPrompt
from plimsoll.serving.executors.torch.deploy import ModelFacts, deploy, instance_specs
from plimsoll.serving.executors.torch.text_engine import TextEngine
from plimsoll.serving.generation import Delta, FinishReason, Generation
from plimsoll.serving.group_dealing import deal_groups, owners
from plimsoll.serving.group_plan import GroupPlan
from plimsoll.serving.plan_groups import plan_groups
from plimsoll.serving.policies import GroupPolicy
from plimsoll.serving.routers import DealtPolicy
from plimsoll.spec.errors import ExecutionError
from plimsoll.spec.plan import PrefixGroups, ServingPlan

__all__ = ["Answered", "BatchRun"]

_MOST_TRIES = 3
_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A request that has ended; ``place`` in the batch."""

    place: int
    text: str
    tokens: tuple[int, ...]
    cached_tokens: int
    finish: FinishReason
    error: str = ""


class BatchRun:
    """Plans ``prompts`` for the replicas of ``plan``, whose policy is ``PrefixGroups``.

    ``expect_tokens`` is the output to expect of each request, 0 for its own limit. ``tokenizer`` is
    the text of tokenizer.json. Use it in a ``with`` statement, which starts and stops workers.

    Raises:
        InfeasibleError: a prefix or request is larger than a worker's memory.
    """

    def __init__(
        self,
        plan: ServingPlan,
        facts: ModelFacts,
        prompts: Sequence[BatchPrompt],
        *,
        tokenizer: str,
        kv_bytes: float,
        expect_tokens: float = 0.0,
        device: str = "cpu",
        num_threads: int = 0,
        processes: bool = True,
    ) -> None:
        config = plan.pools[0].policy
        assert isinstance(config, PrefixGroups)
        self._prompts = prompts
        specs = instance_specs(plan, facts, kv_bytes=kv_bytes)
        self.block_tokens = specs[0].block_tokens
        self.num_blocks = specs[0].num_blocks
        self.max_num_seqs = specs[0].max_num_seqs
        hints = [
            min(expect_tokens or limit, limit)
            for limit in (float(prompt.params.max_tokens) for prompt in prompts)
        ]
        self.plan: GroupPlan = plan_groups(
            (prompt.tokens for prompt in prompts),
            hints,
            block_tokens=self.block_tokens,
            kv_tokens=self.num_blocks * self.block_tokens,
        )
        parts = deal_groups(self.plan, len(specs))
        policies = [
            GroupPolicy(
                plan=part,
                token_budget=config.token_budget,
                kv_fraction=config.kv_fraction,
                preempt=config.preempt,
            )
            for part in parts
        ]
        self._run = deploy(
            plan,
            facts,
            kv_bytes=kv_bytes,
            device=device,
            num_threads=num_threads,
            processes=processes,
            tokenizer=tokenizer,
            batch=(policies, DealtPolicy(owners(parts))),
            shared_attention=True,
        )
        self._engine = TextEngine(
            self._run,
            model_name=facts.folder.name,
            max_model_len=specs[0].max_model_len,
            vocab_size=facts.vocab_size,
            tokenizer=Tokenizer.from_str(tokenizer),
            grammars=None,
        )
        self._over: queue.SimpleQueue[Answered] = queue.SimpleQueue()

    def __enter__(self) -> "BatchRun":
        self._run.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._engine.close()

    def answers(self) -> Iterator[Answered]:
        """Every request once, as they end.

        Raises:
            ExecutionError: the engine cannot go on.
        """
        for place in range(len(self._prompts)):
            self._send(place)
        tries = [1] * len(self._prompts)
        left = len(self._prompts)
        while left:
            try:
                found = self._over.get(timeout=_PATIENCE_S)
            except queue.Empty:
                if not self._engine.healthy():
                    raise ExecutionError(self._run.failure or "every worker is lost") from None
                continue
            failed = found.finish in ("error", "rejected", "cancelled")
            if failed and self._run.failure:
                raise ExecutionError(self._run.failure)
            if failed and found.finish == "error" and tries[found.place] < _MOST_TRIES:
                tries[found.place] += 1
                self._send(found.place)
                continue
            left -= 1
            yield found

    def _send(self, place: int) -> None:
        prompt = self._prompts[place]
        generation = Generation(prompt=prompt.tokens, params=prompt.params)
        self._engine.submit(generation, _Gathered(place, self._over.put).hear)


class _Gathered:
    """The deltas of one request."""

    def __init__(self, place: int, put: Callable[[Answered], None]) -> None:
        self._place, self._put = place, put
        self._text: list[str] = []
        self._tokens: list[int] = []

    def hear(self, delta: Delta) -> None:
        """Add up until the last."""
        self._text.append(delta.text)
        self._tokens.extend(delta.tokens)
        if delta.finish is not None:
            self._put(
                Answered(
                    place=self._place,
                    text="".join(self._text),
                    tokens=tuple(self._tokens),
                    cached_tokens=delta.cached_tokens,
                    finish=delta.finish,
                    error=delta.error,
                )
            )
