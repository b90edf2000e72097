"""Softmax attention with grouped key and value heads: four projections around a context.

Options that families mix: biases, norms of queries and keys, sliding windows, soft-capped scores,
a scale of their own. Numbers of heads are read from the projected tensors, so a rank may hold a
part of the heads. Sources: arXiv 2305.13245 (groups), 2302.05442 (norms), 2004.05150 (windows).

Legend: T tokens, C width of the residual stream.
"""

from torch import Tensor, nn

from plimsoll.models.context import Context, KvShape
from plimsoll.models.dimensions import Dimensions
from plimsoll.models.layers import RmsNorm
from plimsoll.models.rope import Rotary

__all__ = ["GroupedAttention", "kv_shapes"]


class GroupedAttention(nn.Module):
    """Attention of layer ``index``. ``scale`` 0: one over the root of the head's width."""

    def __init__(
        self,
        index: int,
        dims: Dimensions,
        rotary: Rotary,
        *,
        qkv_bias: bool = False,
        output_bias: bool = False,
        qk_norm: bool = False,
        one_plus: bool = False,
        window: int = 0,
        softcap: float = 0.0,
        scale: float = 0.0,
    ) -> None:
        super().__init__()
        hidden, head_dim = dims.hidden, dims.head_dim
        self.index = index
        self.head_dim = head_dim
        self.rotary = rotary
        self.window = window
        self.softcap = softcap
        self.scale = scale or head_dim**-0.5
        self.q_proj = nn.Linear(hidden, dims.num_heads * head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(hidden, dims.num_kv_heads * head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(hidden, dims.num_kv_heads * head_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(dims.num_heads * head_dim, hidden, bias=output_bias)
        self.qk_norm = qk_norm
        if qk_norm:
            self.q_norm = RmsNorm(head_dim, dims.eps, one_plus=one_plus)
            self.k_norm = RmsNorm(head_dim, dims.eps, one_plus=one_plus)

    def forward(self, x_TC: Tensor, positions_T: Tensor, context: Context) -> Tensor:
        """[T, C]"""
        tokens = x_TC.shape[0]
        q_THD = self.q_proj(x_TC).view(tokens, -1, self.head_dim)
        k_TKD = self.k_proj(x_TC).view(tokens, -1, self.head_dim)
        v_TKD = self.v_proj(x_TC).view(tokens, -1, self.head_dim)
        if self.qk_norm:
            q_THD, k_TKD = self.q_norm(q_THD), self.k_norm(k_TKD)
        q_THD, k_TKD = self.rotary(q_THD, k_TKD, positions_T)
        out_THD = context.attend(
            self.index,
            q_THD,
            k_TKD,
            v_TKD,
            scale=self.scale,
            window=self.window,
            softcap=self.softcap,
        )
        return self.o_proj(out_THD.reshape(tokens, -1))


def kv_shapes(dims: Dimensions) -> dict[int, KvShape]:
    """What every layer caches."""
    shape = KvShape(num_heads=dims.num_kv_heads, key_dim=dims.head_dim, value_dim=dims.head_dim)
    return dict.fromkeys(range(dims.num_layers), shape)
