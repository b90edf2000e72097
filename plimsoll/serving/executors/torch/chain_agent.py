"""A process that holds blocks: runs batches of them and passes hidden states on to other processes.

Messages come over a pipe in order; hidden states, keys and values go between processes over
torch.distributed (gloo). An agent keeps, for each request and position, keys and values of the
block's layers and its output of every token, so that the next block can be computed again. Sends
do not wait; a receive waits for its sender, which was told earlier, so that nobody waits in a ring.
Left out: GPUs, paged memory; prompts run whole.

Legend: T tokens of the pass, C width, N rows sampled.
"""

import contextlib
import os
import pickle
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, distributed

from plimsoll.models.attention import attend_chunk
from plimsoll.models.block_chain import Block, make_layer
from plimsoll.models.lora import Lora, attach, take_rows

__all__ = [
    "Agent",
    "Drop",
    "Forward",
    "Load",
    "Part",
    "PeerLost",
    "RunBlock",
    "ServedBlock",
    "agent_main",
]

_MEETING_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedBlock:
    """A run of layers as one block. ``layers``: (attention, feed-forward part) of each.

    ``table`` is given where a chain starts here, ``head`` where it ends. ``adapters`` by
    application, then by layer of the run, then by path in the layer.
    """

    name: str
    layers: tuple[tuple[Block, Block], ...]
    table: Block | None = None
    head: Block | None = None
    adapters: Mapping[str, Mapping[int, Mapping[str, Lora]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """Hold a block from now on: a pickled ``ServedBlock``."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Forward:
    """Send the output of ``position`` of a request, rows ``start`` to ``start + num``.

    ``tag`` is of this message alone.
    """

    request: int
    position: int
    start: int
    num: int
    target: int
    tag: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget what is held of a request: at one position, at all for -1."""

    request: int
    position: int


@dataclass(frozen=True, slots=True)
class Part:
    """One request of a batch: tokens given (position 0), or rows of the block before, which lie
    here (``source`` -1) or come from ``source``."""

    request: int
    app: str
    position: int
    start: int
    num: int
    width: int
    tokens: tuple[int, ...] = ()
    source: int = -1
    tag: int = 0


@dataclass(frozen=True, slots=True)
class RunBlock:
    """Run a block over these; the answer holds the tokens sampled, in order, () before the end."""

    block: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class PeerLost:
    """A batch did not run, since an input never came."""

    why: str


@dataclass(slots=True)
class _Held:
    """What one request left at one position: rows of output, and (keys, values) by layer."""

    output_TC: Tensor
    kv: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


class _Context:
    """One pass over the parts of a batch; keys and values grow in what is held."""

    def __init__(self, held: Sequence[_Held], parts: Sequence[Part]) -> None:
        self._held = held
        self._parts = parts
        self.bounds: list[tuple[int, int]] = []
        at = 0
        for part in parts:
            self.bounds.append((at, at + part.num))
            at += part.num

    def states(self, layer: int) -> Sequence[dict[str, Tensor]]:
        """See ``models.context.Context``; there are none."""
        return [{} for _ in self._parts]

    def attend(
        self,
        layer: int,
        q_THD: Tensor,
        k_TKD: Tensor,
        v_TKE: Tensor | None,
        *,
        scale: float,
        window: int = 0,
        softcap: float = 0.0,
        sinks: Tensor | None = None,
        latent_dim: int = 0,
    ) -> Tensor:
        """See ``models.context.Context``."""
        assert v_TKE is not None, "a Llama has values of its own"
        out = []
        for held, part, (a, b) in zip(self._held, self._parts, self.bounds, strict=True):
            keys, values = k_TKD[a:b], v_TKE[a:b]
            if part.start:
                before = held.kv[layer]
                keys = torch.cat([before[0][: part.start], keys])
                values = torch.cat([before[1][: part.start], values])
            held.kv[layer] = keys, values
            out.append(
                attend_chunk(
                    q_THD[a:b], keys, values,
                    scale=scale, window=window, softcap=softcap, sinks=sinks,
                )
            )  # fmt: skip
        return torch.cat(out)


class _Loaded:
    """A served block ready to run: its layers, with the adapters of every application."""

    def __init__(self, block: ServedBlock) -> None:
        self.block = block
        self.layers = torch.nn.ModuleList(
            make_layer(attention, mlp, index) for index, (attention, mlp) in enumerate(block.layers)
        )
        for app, layers in block.adapters.items():
            for index, loras in layers.items():
                attach(self.layers[index], loras, name=app)


class Agent:
    """What a process holds and does; ``rank`` in the group it talks to others in."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self._blocks: dict[str, _Loaded] = {}
        self._held: dict[tuple[int, int], _Held] = {}
        self._sent: list[tuple[Any, Tensor]] = []

    def handle(self, message: Any) -> Any:
        """The answer to a message, None where there is none."""
        if isinstance(message, RunBlock):
            return self._run(message)
        if isinstance(message, Forward):
            self._forward(message)
        elif isinstance(message, Drop):
            for key in list(self._held):
                if key[0] == message.request and message.position in (-1, key[1]):
                    del self._held[key]
        else:
            assert isinstance(message, Load)
            block = pickle.loads(message.data)
            self._blocks[block.name] = _Loaded(block)
        return None

    def _forward(self, message: Forward) -> None:
        held = self._held[message.request, message.position]
        rows = held.output_TC[message.start : message.start + message.num].contiguous()
        with contextlib.suppress(RuntimeError):  # to or from one that is gone: nobody waits for it
            self._sent = [(work, kept) for work, kept in self._sent if not work.is_completed()]
        with contextlib.suppress(RuntimeError):
            self._sent.append((distributed.isend(rows, message.target, tag=message.tag), rows))

    @torch.no_grad()
    def _run(self, message: RunBlock) -> tuple[int, ...] | PeerLost:
        loaded = self._blocks[message.block]
        parts = message.parts
        try:
            hidden_TC = torch.cat([self._input(loaded, part) for part in parts])
        except RuntimeError as error:  # the process that was to send is gone
            return PeerLost(str(error))
        held = []
        for part in parts:
            key = part.request, part.position
            if not part.start or key not in self._held:
                self._held[key] = _Held(hidden_TC.new_empty(0, hidden_TC.shape[1]))
            held.append(self._held[key])
        context = _Context(held, parts)
        positions_T = torch.cat([torch.arange(p.start, p.start + p.num) for p in parts])
        rows = [(a, b, p.app) for p, (a, b) in zip(parts, context.bounds, strict=True)]
        take_rows(loaded.layers, rows)
        for layer in loaded.layers:
            hidden_TC = layer(hidden_TC, positions_T, context)
        for one, part, (a, b) in zip(held, parts, context.bounds, strict=True):
            one.output_TC = torch.cat([one.output_TC[: part.start], hidden_TC[a:b]])
        head = loaded.block.head
        if head is None:
            return ()
        last_NC = hidden_TC[[b - 1 for _, b in context.bounds]]
        gain_C = head.tensors["norm.weight"]
        normed_NC = torch.nn.functional.rms_norm(last_NC, gain_C.shape, gain_C, head.dims.eps)
        scores_NV = torch.nn.functional.linear(normed_NC, head.tensors["lm_head.weight"])
        return tuple(scores_NV.argmax(-1).tolist())

    def _input(self, loaded: _Loaded, part: Part) -> Tensor:
        """[num, C] what a part of a batch starts from."""
        if part.position == 0:
            table = loaded.block.table
            assert table is not None
            tokens_T = torch.tensor(part.tokens)
            return torch.nn.functional.embedding(tokens_T, table.tensors["embed_tokens.weight"])
        if part.source < 0:
            held = self._held[part.request, part.position - 1]
            return held.output_TC[part.start : part.start + part.num]
        rows = torch.empty(part.num, part.width)
        distributed.recv(rows, part.source, tag=part.tag)
        return rows


def agent_main(rank: int, world: int, meeting: str, pipe: Connection) -> None:
    """The life of an agent: meet the others, handle messages until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=_MEETING_S),
    )
    agent = Agent(rank)
    pipe.send("ready")
    try:
        while (message := pipe.recv()) is not None:
            answer = agent.handle(message)
            if answer is not None:
                pipe.send(answer)
    except EOFError:
        return
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
