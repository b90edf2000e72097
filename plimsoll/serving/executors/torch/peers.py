"""Workers that attend for each other: queries over gloo, partial results back.

Every worker of a run joins one process group. For each other worker a thread answers what it asks:
a header (layer, loan, blocks, queries, heads; 20 bytes), the queries, then what this worker's pages
contribute with maxima and sums. All float32: partial results joined in a narrower format are
wrong. Keys and values never travel here.
Left out: a worker that was started again is nobody's peer; GPUs; windows, sinks, latent attention.
Source: arXiv 2401.02669 (DistAttention); torch.distributed.
"""

import contextlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from plimsoll.models.dist_attention import Partial, partial_attention
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.messages import Held
from plimsoll.spec.errors import ExecutionError

__all__ = ["Meeting", "Peers"]

_ASK, _ANSWER = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Where the workers of a run meet: a file, and which of ``world`` this one is."""

    file: str
    rank: int
    world: int


class Peers:
    """``num_bytes`` counts what this worker asked and got, ``num_parts`` queries times layers times
    creditors."""

    def __init__(self, meeting: Meeting, store: KvStore) -> None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{meeting.file}",
            rank=meeting.rank,
            world_size=meeting.world,
            timeout=timedelta(days=1),
        )
        self._store = store
        self._guests: dict[int, list[int]] = {}
        """Blocks held here for others, by loan."""
        self._lock = threading.Lock()
        self._sent: list[tuple[Any, Tensor]] = []
        """Messages under way, and what they read."""
        self.num_bytes = self.num_parts = 0
        for rank in range(meeting.world):
            if rank != meeting.rank:
                threading.Thread(target=self._serve, args=(rank,), daemon=True).start()

    # As a creditor

    def host(self, loan: int, blocks: Sequence[int]) -> None:
        """These pages hold more of a loan, after what is here of it."""
        with self._lock:
            self._guests.setdefault(loan, []).extend(blocks)

    def unhost(self, loan: int) -> None:
        """The loan is over."""
        with self._lock:
            self._guests.pop(loan, None)

    @torch.inference_mode()
    def _serve(self, rank: int) -> None:
        header = torch.zeros(5, dtype=torch.int32)
        with contextlib.suppress(RuntimeError):  # the peer is gone, or this worker is
            while True:
                distributed.recv(header, rank, tag=_ASK)
                layer, loan, blocks, num, heads = header.tolist()
                query_THD = torch.empty(num, heads, self._store.keys[layer].shape[3])
                distributed.recv(query_THD, rank, tag=_ASK)
                answer = self._answer(layer, loan, blocks, query_THD)
                distributed.send(answer, rank, tag=_ANSWER)

    def _answer(self, layer: int, loan: int, blocks: int, query_THD: Tensor) -> Tensor:
        """[T, H, E + 2]; nothing at all (maximum -inf) for a loan that is not here."""
        with self._lock:
            numbers = torch.tensor(self._guests.get(loan, [])[:blocks], dtype=torch.long)
        keys, values = self._store.keys[layer], self._store.values[layer]
        assert values is not None
        k_NKD = keys[numbers].transpose(1, 2).flatten(0, 1)
        v_NKE = values[numbers].transpose(1, 2).flatten(0, 1)
        part = partial_attention(
            query_THD,
            k_NKD,
            v_NKE,
            query_positions_T=torch.ones(len(query_THD)),
            key_positions_N=torch.zeros(len(k_NKD)),  # all lie before every query
            scale=1.0,
        )
        return torch.cat(
            [part.weighted_THE, part.max_TH[..., None], part.sum_TH[..., None]], dim=-1
        ).contiguous()

    # As a debtor

    def ask(self, layer: int, held: Sequence[Held], query_THD: Tensor, scale: float) -> None:
        """Send the queries of one request to its creditors, without waiting: one that answers an
        earlier question takes the next only when that answer has been heard."""
        scaled = (query_THD.float() * scale).contiguous()
        for at in held:
            numbers = [layer, at.loan, at.blocks, *scaled.shape[:2]]
            for message in (torch.tensor(numbers, dtype=torch.int32), scaled):
                with contextlib.suppress(RuntimeError):  # it is gone, as its answer will show
                    self._sent.append((distributed.isend(message, at.instance, tag=_ASK), message))
                self.num_bytes += _size(message)
            self.num_parts += len(scaled)

    def hear(self, held: Sequence[Held], size: tuple[int, int, int]) -> list[Partial]:
        """What creditors answer to [T, H, E] ``size``, in the order they were asked.

        Raises:
            ExecutionError: one is gone, or does not have what it was asked for.
        """
        found, why = [], ""
        for at in held:
            answer = torch.empty(size[0], size[1], size[2] + 2)
            try:
                distributed.recv(answer, at.instance, tag=_ANSWER)
            except RuntimeError:
                why = f"instance {at.instance} does not answer"
                continue
            self.num_bytes += _size(answer)
            part = Partial(
                weighted_THE=answer[..., :-2], max_TH=answer[..., -2], sum_TH=answer[..., -1]
            )
            if bool(torch.isinf(part.max_TH).any()):
                why = f"instance {at.instance} does not have the KV it was lent"
            found.append(part)
        if why:
            raise ExecutionError(why)
        return found

    def heard(self) -> None:
        """All answers of a layer are here, so all questions have been taken."""
        for work, _ in self._sent:
            with contextlib.suppress(RuntimeError):
                work.wait()
        self._sent.clear()


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
