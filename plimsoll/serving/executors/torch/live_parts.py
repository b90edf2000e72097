"""What a real run's coordinator is made of: numbered blocks, engines that send, links, copies.

The simulator makes the same parts from prices; these answer when workers do.
"""

from collections.abc import Collection

from plimsoll.serving.executors.coordinator import OUTSIDE, Coordinator, InstanceSpec
from plimsoll.serving.executors.engine import Engine
from plimsoll.serving.executors.instance import SimInstance
from plimsoll.serving.executors.loans import Loans
from plimsoll.serving.executors.torch.engine import Conversation, TorchEngine
from plimsoll.serving.executors.torch.links import WorkerLinks
from plimsoll.serving.executors.torch.worker_loans import WorkerLoans
from plimsoll.serving.executors.torch.worker_swaps import WorkerSwaps
from plimsoll.serving.executors.view import RunView
from plimsoll.serving.kv.numbered import NumberedPool
from plimsoll.serving.kv.paged import PagedPool
from plimsoll.serving.kv.prefix_hash import prefix_hashes
from plimsoll.serving.kv.swap_manager import SwapSpec

__all__ = ["LiveParts"]


class LiveParts(Coordinator):
    """``texts`` by request; ``keys`` what an ended request left in the prefix cache."""

    texts: dict[int, Conversation]
    keys: dict[int, list[int]]
    block_tokens: int
    _eos_ids: Collection[int]
    _link_bytes_per_s: float
    _peers: bool
    _keep: bool

    def _real(self, index: int) -> TorchEngine:
        engine = self.engines[index]
        assert isinstance(engine, TorchEngine)
        return engine

    def _swaps(
        self, spec: InstanceSpec, swapping: SwapSpec, engine: Engine, key_tokens: int
    ) -> WorkerSwaps:
        assert isinstance(engine, TorchEngine)
        return WorkerSwaps(
            swapping,
            engine.numbers,
            host_blocks=spec.host_blocks,
            longest_tokens=min(spec.max_model_len, spec.num_blocks * spec.block_tokens),
            later=lambda at_s, event: None,
            emit=engine.emit,
        )

    def _pool(self, spec: InstanceSpec, unit_tokens: int) -> PagedPool:
        if spec.swapping is not None:
            return super()._pool(spec, unit_tokens)
        return NumberedPool(
            total=spec.num_blocks,
            block_tokens=spec.block_tokens,
            per_request=spec.blocks_per_request,
            unit_tokens=unit_tokens,
            host_blocks=spec.host_blocks,
            block_bytes=spec.block_bytes,
            most_lent=int(spec.num_blocks * spec.lent_fraction),
        )

    def _lender(self) -> Loans | None:
        if not self._peers:
            return super()._lender()
        return WorkerLoans(
            self.engines,
            self._transfers,
            None,
            later=lambda at_s, call, arguments: self._push(at_s, OUTSIDE, call, arguments),
            done=self._moved,
            failed=self._refused,
        )

    def _engine(
        self, spec: InstanceSpec, inst: SimInstance, view: RunView, unit_tokens: int
    ) -> Engine:
        return TorchEngine(
            send=lambda message: None,
            texts=self.texts,
            eos_ids=self._eos_ids,
            inst=inst,
            policy=spec.policy,
            view=view,
            outputs=self._outputs,
            recorder=self.recorder,
            heap=self._heap,
            serials=self._serials,
            on_end=self._ended,
            on_stage=self._stage_done,
            unlucky=None,
            next_keys=self._ended_keys if unit_tokens else None,
            log=self._log,
            now=self._now,
        )

    def _links(self) -> WorkerLinks:
        links = WorkerLinks(
            self.engines,
            None,
            lambda at_s, arguments: None,
            done=self._moved,
            failed=self._refused,
        )
        links.bytes_per_s = self._link_bytes_per_s
        return links

    def _ended_keys(self, request: int) -> list[int]:
        text = self.texts[request]
        keys = prefix_hashes([*text.prompt, *text.tokens], self.block_tokens)
        if self._keep:
            self.keys[request] = keys
        return keys
