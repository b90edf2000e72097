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

import torch
from torch import Tensor, distributed

from plimsoll.models.dist_attention import Partial, partial_attention
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.messages import Held
from plimsoll.spec.errors import ExecutionError

__all__ = ["Meeting", "Peers"]

_PATIENCE_S = 60.0
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
        self._changed = threading.Condition()
        self.num_bytes = self.num_parts = 0
        for rank in range(meeting.world):
            if rank != meeting.rank:
                threading.Thread(target=self._serve, args=(rank,), daemon=True).start()

    # As a creditor

    def host(self, loan: int, blocks: Sequence[int]) -> None:
        """These pages hold more of a loan, after what is here of it."""
        with self._changed:
            self._guests.setdefault(loan, []).extend(blocks)
            self._changed.notify_all()

    def unhost(self, loan: int) -> None:
        """The loan is over."""
        with self._changed:
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
        """[T, H, E + 2]; nothing at all (maximum -inf) for a loan that does not come."""
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._guests.get(loan, ())) >= blocks, timeout=_PATIENCE_S
            )
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

    def ask(self, layer: int, held: Sequence[Held], query_THD: Tensor, scale: float) -> list[int]:
        """Send the queries of one request to its creditors; who could not be reached."""
        scaled = (query_THD.float() * scale).contiguous()
        lost = []
        for at in held:
            header = torch.tensor([layer, at.loan, at.blocks, *scaled.shape[:2]], dtype=torch.int32)
            try:
                distributed.send(header, at.instance, tag=_ASK)
                distributed.send(scaled, at.instance, tag=_ASK)
            except RuntimeError:
                lost.append(at.instance)
                continue
            self.num_bytes += _size(header) + _size(scaled)
            self.num_parts += len(scaled)
        return lost

    def hear(self, held: Sequence[Held], size: tuple[int, int, int]) -> list[Partial]:
        """What creditors answer to [T, H, E] ``size``, in order.

        Raises:
            ExecutionError: one is gone, or does not have what it was asked for.
        """
        found = []
        for at in held:
            answer = torch.empty(size[0], size[1], size[2] + 2)
            try:
                distributed.recv(answer, at.instance, tag=_ANSWER)
            except RuntimeError:
                raise ExecutionError(f"instance {at.instance} does not answer") from None
            self.num_bytes += _size(answer)
            part = Partial(
                weighted_THE=answer[..., :-2], max_TH=answer[..., -2], sum_TH=answer[..., -1]
            )
            if bool(torch.isinf(part.max_TH).any()):
                raise ExecutionError(f"instance {at.instance} does not have the KV it was lent")
            found.append(part)
        return found


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
