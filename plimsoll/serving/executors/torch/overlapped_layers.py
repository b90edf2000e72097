"""The layers of a tensor parallel decoder, run as an overlap plan says.

The tokens of a pass are cut where the plan cuts its batch, as fractions of it. While the sums of
one piece are on the link the next one computes: collectives are asynchronous, and waited for where
their sum is read. A rank computes pieces one by one, whatever shares the plan gives them, since its
kernels take the whole device here. A pass of few tokens runs uncut.
Leaves out: kernels that share a device, pipelines, experts. Source: arXiv 2408.12757.

Legend: T tokens of the pass, C width of the residual stream, H and K query and key heads of the
rank, D head width, F feed-forward width of the rank.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from torch import Tensor, distributed, nn

from plimsoll.models.llama import PreNormLayer
from plimsoll.models.sharding import own_part
from plimsoll.serving.executors.torch.kv_store import KvStore
from plimsoll.serving.executors.torch.messages import Work
from plimsoll.serving.executors.torch.overlap_schedule import OPERATORS, Issue, schedule
from plimsoll.serving.executors.torch.paged_context import PagedContext
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.overlap import NanoPiece, OverlapPlan

__all__ = ["OverlappedLayers", "Pending", "asynchronous_sum", "uncut_pieces"]

_LEAST_TOKENS = 8


class Pending(Protocol):
    """A collective on its way."""

    def wait(self) -> object:
        """Until the sum is there."""
        ...


def uncut_pieces(batch_tokens: int) -> tuple[NanoPiece, ...]:
    """Every operator whole, in order: the layer as it runs without a plan."""
    return tuple(
        NanoPiece(operator=name, first_token=0, end_token=batch_tokens) for name in OPERATORS
    )


@dataclass(frozen=True, slots=True)
class _Attended:
    """Rows ``first`` to ``end`` of a pass and the context that attends for them."""

    first: int
    end: int
    context: PagedContext


class OverlappedLayers:
    """``layers`` are whole or a rank's part; ``reduce(tensor)`` adds a tensor up over the ranks in
    place and returns at once. ``watch(operator, tokens, seconds)`` is told of every piece.

    Raises:
        UnsupportedError: layers of another kind, or a plan for other operators.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        plan: OverlapPlan,
        reduce: Callable[[Tensor], Pending],
        *,
        watch: Callable[[str, int, float], None] | None = None,
    ) -> None:
        if not all(isinstance(layer, PreNormLayer) for layer in layers):
            raise UnsupportedError(
                "overlap plan: carried out for pre-norm layers with grouped attention and a gated "
                "feed-forward; set the policy's overlap to null"
            )
        self._layers = [cast(Any, layer) for layer in layers]
        self._reduce, self._watch = reduce, watch
        self._batch_tokens = plan.batch_tokens
        self._cut = plan.pieces, schedule(plan.pieces, layers=len(layers))
        whole = uncut_pieces(plan.batch_tokens)
        self._whole = whole, schedule(whole, layers=len(layers))

    def __call__(
        self, hidden_TC: Tensor, positions_T: Tensor, store: KvStore, work: Sequence[Work]
    ) -> Tensor:
        """[T, C] behind the last layer; keys and values of ``work`` go into ``store``."""
        pieces, issues = self._cut if len(hidden_TC) >= _LEAST_TOKENS else self._whole
        run = _Pass(self, hidden_TC, positions_T, store, work, pieces)
        return run.go(issues)


class _Pass:
    """One pass. Buffers hold every token once: the rows of a piece belong to it."""

    def __init__(
        self,
        owner: OverlappedLayers,
        hidden_TC: Tensor,
        positions_T: Tensor,
        store: KvStore,
        work: Sequence[Work],
        pieces: Sequence[NanoPiece],
    ) -> None:
        self._layers, self._reduce, self._watch = owner._layers, owner._reduce, owner._watch
        self._hidden_TC = hidden_TC.clone()
        num, batch = len(hidden_TC), owner._batch_tokens
        self._pieces = pieces
        self._rows = [
            (round(piece.first_token * num / batch), round(piece.end_token * num / batch))
            for piece in pieces
        ]
        self._positions = [positions_T[first:end] for first, end in self._rows]
        self._attending = [
            _attending(piece, rows, store, work)
            for piece, rows in zip(pieces, self._rows, strict=True)
        ]
        attention = self._layers[0].self_attn
        width = attention.head_dim
        heads = _size(own_part(attention.o_proj))[1] // width
        kv_heads = _size(attention.k_proj)[0] // width
        empty = hidden_TC.new_empty
        self._q_THD, self._out_THD = empty((num, heads, width)), empty((num, heads, width))
        self._k_TKD, self._v_TKD = empty((num, kv_heads, width)), empty((num, kv_heads, width))
        _, inner = _size(own_part(self._layers[0].mlp.down_proj))
        self._inner_TF = empty((num, inner))
        self._sums = {name: empty(hidden_TC.shape) for name in ("o", "d")}
        self._waiting: dict[int, tuple[Pending, str, int, int]] = {}

    def go(self, issues: Sequence[Issue]) -> Tensor:
        """[T, C] when all pieces have run."""
        for place, issue in enumerate(issues):
            for earlier in issue.after:
                self._finish(earlier)
            first, end = self._rows[issue.piece]
            if first < end:
                started_s = time.perf_counter()
                self._issue(place, issue, first, end)
                if self._watch is not None:
                    spent_s = time.perf_counter() - started_s
                    self._watch(self._pieces[issue.piece].operator, end - first, spent_s)
        for place in list(self._waiting):
            self._finish(place)
        return self._hidden_TC

    def _finish(self, place: int) -> None:
        """Add a sum to the residual stream when it is there."""
        found = self._waiting.pop(place, None)
        if found is not None:
            pending, name, first, end = found
            pending.wait()
            self._hidden_TC[first:end] += self._sums[name][first:end]

    def _issue(self, place: int, issue: Issue, first: int, end: int) -> None:
        operator, layer = self._pieces[issue.piece].operator, self._layers[issue.layer]
        if operator == "kqv":
            self._kqv(layer, issue.piece, first, end)
        elif operator.endswith("attention") and not operator.startswith("reduce"):
            attended = self._attending[issue.piece]
            if attended is not None:
                self._attend(layer.self_attn, attended)
        elif operator == "o":
            out = self._out_THD[first:end].flatten(1)
            self._sums["o"][first:end] = own_part(layer.self_attn.o_proj)(out)
        elif operator == "ug":
            x_TC = layer.post_attention_layernorm(self._hidden_TC[first:end])
            mlp = layer.mlp
            self._inner_TF[first:end] = mlp.act(mlp.gate_proj(x_TC)) * mlp.up_proj(x_TC)
        elif operator == "d":
            self._sums["d"][first:end] = own_part(layer.mlp.down_proj)(self._inner_TF[first:end])
        else:
            name = "o" if operator == "reduce attention" else "d"
            pending = self._reduce(self._sums[name][first:end])
            self._waiting[place] = pending, name, first, end

    def _kqv(self, layer: Any, piece: int, first: int, end: int) -> None:
        attention = layer.self_attn
        x_TC = layer.input_layernorm(self._hidden_TC[first:end])
        shape = (end - first, -1, attention.head_dim)
        q_THD = attention.q_proj(x_TC).view(shape)
        k_TKD = attention.k_proj(x_TC).view(shape)
        if attention.qk_norm:
            q_THD, k_TKD = attention.q_norm(q_THD), attention.k_norm(k_TKD)
        q_THD, k_TKD = attention.rotary(q_THD, k_TKD, self._positions[piece])
        self._q_THD[first:end], self._k_TKD[first:end] = q_THD, k_TKD
        self._v_TKD[first:end] = attention.v_proj(x_TC).view(shape)

    def _attend(self, attention: Any, attended: _Attended) -> None:
        rows = slice(attended.first, attended.end)
        self._out_THD[rows] = attended.context.attend(
            attention.index,
            self._q_THD[rows],
            self._k_TKD[rows],
            self._v_TKD[rows],
            scale=attention.scale,
            window=attention.window,
            softcap=attention.softcap,
        )


def _size(linear: Any) -> tuple[int, int]:
    """(outputs, inputs); a plain layer that was cut knows its own only by its weight."""
    if isinstance(linear, nn.Linear):
        outputs, inputs = linear.weight.shape
        return outputs, inputs
    return linear.out_features, linear.in_features


def _attending(
    piece: NanoPiece, rows: tuple[int, int], store: KvStore, work: Sequence[Work]
) -> _Attended | None:
    """What an attention piece attends for: the prompt chunks, or the decodes, among its rows.

    Decodes come last in a pass: they are what follows the last item of several tokens.
    """
    if piece.operator not in ("prefill attention", "decode attention"):
        return None
    chunks = max((i + 1 for i, item in enumerate(work) if len(item.tokens) > 1), default=0)
    decodes = piece.operator == "decode attention"
    mine: list[Work] = []
    at, begin, stop = 0, -1, -1
    for i, item in enumerate(work):
        first, end = max(rows[0], at), min(rows[1], at + len(item.tokens))
        if first < end and (i >= chunks) == decodes:
            begin, stop = (first if begin < 0 else begin), end
            tokens = item.tokens[first - at : end - at]
            mine.append(replace(item, tokens=tokens, start=item.start + first - at))
        at += len(item.tokens)
    return _Attended(begin, stop, PagedContext(store, mine)) if mine else None


def asynchronous_sum(group: Any) -> Callable[[Tensor], Pending]:
    """Sums over the ranks of a group that do not wait for each other."""

    def reduce(tensor: Tensor) -> Pending:
        return cast(Pending, distributed.all_reduce(tensor, group=group, async_op=True))

    return reduce
