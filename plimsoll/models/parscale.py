"""P parallel streams around any decoder with plain attention.

Every layer owns P prefixes of keys and values. A token runs P times, once behind each prefix; the
last hidden states of its streams are concatenated and weighed by a small network, weights are
smoothed by ε, and the head runs once on their weighted sum. Streams are told apart by prefixes
alone, which therefore start at random, each on its own. Prefixes take no position and are not
rotated. Copies stand stream by stream: all sequences of stream 0, then of stream 1.
With one stream and no prefix the model is the base, exactly.
Leaves out: sliding windows, latent attention, states of fixed size.
Source: arXiv 2505.10475; ε as in the released configuration.

Legend: T tokens of all sequences, C width of the residual stream, P streams, S = P·T, K KV heads,
D head width, B sequences, L their length, m prefix tokens.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from plimsoll.models.context import Context, Decoder, GrowingContext, States
from plimsoll.spec.errors import SpecError, UnsupportedError

__all__ = ["FullStreams", "GrowingStreams", "ParScaleLM"]

_INIT = 0.02


class ParScaleLM(nn.Module):
    """``base`` with ``streams``; ``prefix`` None: 48 tokens, none for a single stream.

    Raises:
        SpecError: fewer than one stream, or several without a prefix to tell them apart.
        UnsupportedError: a base that keeps more than keys and values of plain attention.
    """

    def __init__(
        self, base: Decoder, streams: int, *, prefix: int | None = None, epsilon: float = 0.01
    ) -> None:
        super().__init__()
        if streams < 1:
            raise SpecError(f"{streams} streams; expected 1 or more")
        length = (48 if streams > 1 else 0) if prefix is None else prefix
        if length < 0 or (streams > 1 and length == 0):
            raise SpecError(
                f"a prefix of {length} tokens for {streams} streams; streams differ by their "
                "prefixes alone, so that several need 1 token or more"
            )
        if base.has_states or any(shape.latent_dim for shape in base.kv_shapes.values()):
            raise UnsupportedError(
                "streams put prefixes before keys and values; the base keeps latent vectors or "
                "states of fixed size"
            )
        self.base = base
        self.streams = streams
        self.prefix = length
        self.epsilon = epsilon
        self.prefixes = nn.ParameterDict()
        if length:
            for layer, shape in base.kv_shapes.items():
                size = (2, streams, length, shape.num_heads, shape.key_dim)
                self.prefixes[str(layer)] = nn.Parameter(torch.randn(size) * _INIT)
        width = base.embed(torch.zeros(1, dtype=torch.long)).shape[-1]
        self.weigh: nn.Module | None = None
        if streams > 1:
            self.weigh = nn.Sequential(
                nn.Linear(streams * width, width), nn.SiLU(), nn.Linear(width, streams)
            )

    def prefix_of(self, layer: int) -> Tensor | None:
        """[2, P, m, K, D] keys and values of a layer; None without a prefix."""
        return self.prefixes[str(layer)] if self.prefix else None

    def forward(self, tokens_T: Tensor, positions_T: Tensor, context: Context) -> Tensor:
        """[T, C] the weighed hidden states. ``context`` is one of those below."""
        hidden_SC = self.base(
            tokens_T.repeat(self.streams), positions_T.repeat(self.streams), context
        )
        return self.merge(hidden_SC)

    def merge(self, hidden_SC: Tensor) -> Tensor:
        """[T, C] of [P·T, C], stream by stream."""
        if self.weigh is None:
            return hidden_SC
        hidden_PTC = hidden_SC.unflatten(0, (self.streams, -1))
        together_TX = hidden_PTC.transpose(0, 1).flatten(1)
        share_TP = self.weigh(together_TX).float().softmax(dim=-1)
        share_TP = share_TP * (1 - self.epsilon) + self.epsilon / self.streams
        return torch.einsum("tp,ptc->tc", share_TP.to(hidden_PTC.dtype), hidden_PTC)

    def logits(self, hidden_NC: Tensor) -> Tensor:
        """[N, V]; the head sees merged states only."""
        return self.base.logits(hidden_NC)

    def load_streams(self, state: Mapping[str, Tensor]) -> None:
        """Load a state of the same number of streams.

        Raises:
            SpecError: it was made for another number.
        """
        found = next((t.shape[1] for name, t in state.items() if name.startswith("prefixes.")), 1)
        if found != self.streams:
            raise SpecError(
                f"the checkpoint has {found} streams, this model {self.streams}; build the model "
                "with as many, or train prefixes for the other number"
            )
        self.load_state_dict(dict(state))


class FullStreams:
    """``batch`` whole sequences of ``length`` tokens, without a cache, with gradients."""

    def __init__(self, model: ParScaleLM, batch: int, length: int) -> None:
        self._model = model
        self._batch = batch
        self._length = length

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        """See ``Context``; every copy is a sequence."""
        n = self._length
        return [(i * n, (i + 1) * n) for i in range(self._batch * self._model.streams)]

    def positions(self) -> Tensor:
        """[T] positions of one stream's tokens."""
        return torch.arange(self._length).repeat(self._batch)

    def states(self, layer: int) -> Sequence[States]:
        """See ``Context``; there are none."""
        raise UnsupportedError(f"layer {layer} asks for states of fixed size")

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
        """See ``Context``; each stream behind its own prefix, which all its tokens see."""
        if window or softcap or sinks is not None or latent_dim or v_TKE is None:
            raise UnsupportedError("streams run plain attention only: no windows, caps or sinks")
        streams, batch = self._model.streams, self._batch
        q, k, v = (
            x.unflatten(0, (streams, batch, -1)).transpose(2, 3) for x in (q_THD, k_TKD, v_TKE)
        )
        prefix = self._model.prefix_of(layer)
        if prefix is not None:
            before = prefix.transpose(2, 3).unsqueeze(2).expand(-1, -1, batch, -1, -1, -1)
            k, v = torch.cat([before[0], k], dim=3), torch.cat([before[1], v], dim=3)
        groups = q.shape[2] // k.shape[2]
        k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
        ones = torch.ones(self._length, k.shape[3], dtype=torch.bool)
        mask = ones.tril(diagonal=self._model.prefix)
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return out.transpose(1, 2).flatten(0, 1)


class GrowingStreams:
    """Sequences that grow pass by pass; each keeps the KV of all its copies.

    Sequences of different lengths run side by side without padding.
    """

    def __init__(self, model: ParScaleLM) -> None:
        self._model = model
        self._kept = GrowingContext()
        self._known: set[int] = set()

    def _copy_id(self, sequence: int, stream: int) -> int:
        return sequence * self._model.streams + stream

    def step(self, chunks: Sequence[tuple[int, Tensor]]) -> Tensor:
        """[N, C] merged states of the new tokens of (sequence, tokens) pairs, in their order."""
        model = self._model
        for sequence, _ in chunks:
            if sequence not in self._known:
                self._begin(sequence)
        order = [
            (self._copy_id(sequence, stream), len(tokens))
            for stream in range(model.streams)
            for sequence, tokens in chunks
        ]
        positions_S = self._kept.begin(order)
        tokens_T = torch.cat([tokens for _, tokens in chunks])
        return model(tokens_T, positions_S[: len(tokens_T)], self._kept)

    def _begin(self, sequence: int) -> None:
        self._known.add(sequence)
        for layer in self._model.base.kv_shapes:
            prefix = self._model.prefix_of(layer)
            if prefix is not None:
                for stream in range(self._model.streams):
                    self._kept.preload(
                        self._copy_id(sequence, stream), layer, prefix[0, stream], prefix[1, stream]
                    )

    def copy(self, sequence: int, to: int) -> None:
        """Let ``to`` go on from where ``sequence`` stands, in all its streams, as a beam does.

        Raises:
            SpecError: ``sequence`` has not begun.
        """
        if sequence not in self._known:
            raise SpecError(f"sequence {sequence} has no tokens yet; run it before it is copied")
        self._known.add(to)
        for stream in range(self._model.streams):
            self._kept.copy(self._copy_id(sequence, stream), self._copy_id(to, stream))
