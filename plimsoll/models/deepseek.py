"""DeepSeek-V2 (and Lite) and V3: latent attention and experts routed by groups.

Attention runs in the absorbed form: the cache holds one normed latent and one rotary key a token,
shared by all heads; queries go through the key half of ``kv_b_proj`` and outputs through its value
half. So the matrix of keys and values is never made. YaRN's ``mscale_all_dim`` sharpens the scale.

V2 routes by softmax, optionally within the groups of the best single expert. V3 routes by sigmoid
plus a learned correction that decides who is chosen but not how much it weighs, within the groups
of the best two experts. First layers are dense. Left out: multi-token prediction, sparse
attention, V2's normalized weights (refused; no published model has them).
Sources: arXiv 2405.04434 (V2), 2412.19437 (V3).

Legend: T tokens, C width of the residual stream, H heads, R latent width, E experts, k experts a
token, G groups.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from plimsoll.models.context import Context, KvShape
from plimsoll.models.decoder_stack import DecoderStack
from plimsoll.models.dimensions import Dimensions, read_dimensions
from plimsoll.models.layers import GatedMlp, RmsNorm
from plimsoll.models.llama import PreNormLayer
from plimsoll.models.mixtral import gated_unit
from plimsoll.models.moe import Experts, MoeMlp, Router
from plimsoll.models.rope import Rotary, read_rope, yarn_mscale
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hf.fields import Fields

__all__ = [
    "DeepseekV2",
    "DeepseekV3",
    "GroupedSigmoidRouter",
    "GroupedSoftmaxRouter",
    "LatentAttention",
    "latent_shape",
]

_LATENT_EPS = 1e-6  # of the norms inside attention, whatever the configuration says


class _LatentUp(nn.Linear):
    """From the latent to every head's keys and values; read half by half, never as one product."""


class LatentAttention(nn.Module):
    """Attention of layer ``index``; the number of heads is read from the projections."""

    def __init__(
        self, index: int, dims: Dimensions, fields: Fields, rotary: Rotary, *, bias: bool
    ) -> None:
        super().__init__()
        shape = latent_shape(fields)
        self.index = index
        self.rotary = rotary
        self.latent_dim = shape.latent_dim
        self.nope_dim = fields.required("qk_nope_head_dim")
        self.rope_dim = shape.key_dim - shape.latent_dim
        self.v_dim = fields.required("v_head_dim")
        fields.check_missing()
        q_dim = self.nope_dim + self.rope_dim
        rope = rotary.settings
        mscale = yarn_mscale(rope.factor, rope.mscale_all_dim) if rope.mscale_all_dim else 1.0
        self.scale = q_dim**-0.5 * mscale**2
        hidden, heads = dims.hidden, dims.num_heads
        rank = fields.optional("q_lora_rank", default=0)
        self.q_rank = rank
        if rank:
            self.q_a_proj = nn.Linear(hidden, rank, bias=bias)
            self.q_a_layernorm = RmsNorm(rank, _LATENT_EPS)
            self.q_b_proj = nn.Linear(rank, heads * q_dim, bias=False)
        else:
            self.q_proj = nn.Linear(hidden, heads * q_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, shape.key_dim, bias=bias)
        self.kv_a_layernorm = RmsNorm(shape.latent_dim, _LATENT_EPS)
        self.kv_b_proj = _LatentUp(
            shape.latent_dim, heads * (self.nope_dim + self.v_dim), bias=False
        )
        self.o_proj = nn.Linear(heads * self.v_dim, hidden, bias=bias)

    def forward(self, x_TC: Tensor, positions_T: Tensor, context: Context) -> Tensor:
        """[T, C]"""
        tokens = x_TC.shape[0]
        if self.q_rank:
            q_TD = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_TC)))
        else:
            q_TD = self.q_proj(x_TC)
        q_THD = q_TD.view(tokens, -1, self.nope_dim + self.rope_dim)
        q_nope, q_rope = q_THD.split([self.nope_dim, self.rope_dim], dim=-1)
        latent_TR, k_rope = self.kv_a_proj_with_mqa(x_TC).split(
            [self.latent_dim, self.rope_dim], dim=-1
        )
        q_rope, k_rope = self.rotary(q_rope, k_rope[:, None], positions_T)
        up_HDR = self.kv_b_proj.weight.view(-1, self.nope_dim + self.v_dim, self.latent_dim)
        key_up, value_up = up_HDR.split([self.nope_dim, self.v_dim], dim=1)
        q_latent = torch.bmm(q_nope.transpose(0, 1), key_up).transpose(0, 1)
        out_THR = context.attend(
            self.index,
            torch.cat([q_latent, q_rope], dim=-1),
            torch.cat([self.kv_a_layernorm(latent_TR)[:, None], k_rope], dim=-1),
            None,
            scale=self.scale,
            latent_dim=self.latent_dim,
        )
        out_HTD = torch.bmm(out_THR.transpose(0, 1), value_up.transpose(1, 2))
        return self.o_proj(out_HTD.transpose(0, 1).reshape(tokens, -1))


class GroupedSoftmaxRouter(Router):
    """Softmax; the ``top_k`` largest within the ``top_groups`` groups of the largest expert."""

    def __init__(
        self,
        hidden: int,
        num_experts: int,
        top_k: int,
        *,
        num_groups: int,
        top_groups: int,
        scale: float,
    ) -> None:
        super().__init__(hidden, num_experts, top_k)
        self.num_groups = num_groups
        self.top_groups = top_groups
        self.scale = scale

    def choose(self, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Router``."""
        scores_TE = logits_TE.softmax(dim=-1)
        best_TG = scores_TE.unflatten(-1, (self.num_groups, -1)).amax(dim=-1)
        allowed_TE = _in_best_groups(best_TG, self.top_groups, scores_TE.shape[-1])
        weights_Tk, experts_Tk = scores_TE.masked_fill(~allowed_TE, 0.0).topk(self.top_k, dim=-1)
        return weights_Tk * self.scale, experts_Tk

    def forward(self, x_TC: Tensor) -> tuple[Tensor, Tensor]:
        """([T, k] weights, [T, k] experts), computed in float32."""
        return self.choose(functional.linear(x_TC.float(), self.weight.float()))


class GroupedSigmoidRouter(GroupedSoftmaxRouter):
    """Sigmoid; chosen by score plus correction, within the groups of the two largest.

    The correction stays in float32 in a model of any precision: rounded, it would choose others.
    """

    def __init__(
        self, hidden: int, num_experts: int, top_k: int, *, normalize: bool, **groups: Any
    ) -> None:
        super().__init__(hidden, num_experts, top_k, **groups)
        self.normalize = normalize
        self.e_score_correction_bias = nn.Parameter(torch.zeros(num_experts), requires_grad=False)

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> "GroupedSigmoidRouter":
        exact = self.e_score_correction_bias.data
        super()._apply(fn, recurse)
        moved = self.e_score_correction_bias
        if moved.dtype != exact.dtype:
            moved.data = exact.to(moved.device)
        return self

    def choose(self, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Router``."""
        scores_TE = logits_TE.sigmoid()
        corrected_TE = scores_TE + self.e_score_correction_bias
        pairs_TG = corrected_TE.unflatten(-1, (self.num_groups, -1)).topk(2, dim=-1)[0].sum(dim=-1)
        allowed_TE = _in_best_groups(pairs_TG, self.top_groups, scores_TE.shape[-1])
        experts_Tk = corrected_TE.masked_fill(~allowed_TE, float("-inf")).topk(self.top_k)[1]
        weights_Tk = scores_TE.gather(-1, experts_Tk)
        if self.normalize:
            weights_Tk = weights_Tk / (weights_Tk.sum(dim=-1, keepdim=True) + 1e-20)
        return weights_Tk * self.scale, experts_Tk


class _Deepseek(DecoderStack):
    """Layers of latent attention, the first ``first_k_dense_replace`` dense, then experts."""

    def __init__(
        self,
        config: Mapping[str, Any],
        make_router: Callable[[Fields, int, int, int], Router],
        *,
        interleaved: bool = True,
    ) -> None:
        dims = read_dimensions(config)
        fields = Fields(config, where="config.json")
        num_experts = fields.required("n_routed_experts", "num_experts")
        top_k = fields.required("num_experts_per_tok", most=num_experts)
        width = fields.required("moe_intermediate_size")
        shape = latent_shape(fields)
        fields.check_missing()
        num_shared = fields.optional("n_shared_experts", default=0)
        first = fields.optional("first_k_dense_replace", default=0)
        every = fields.optional("moe_layer_freq", default=1, least=1)
        bias = fields.flag("attention_bias")
        rope_dim = shape.key_dim - shape.latent_dim
        rotary = Rotary(read_rope(config, rope_dim), interleaved=interleaved)
        unit = gated_unit(dims.activation)

        def mlp(index: int) -> nn.Module:
            if index < first or index % every:
                return GatedMlp(dims.hidden, dims.intermediate, dims.activation)
            shared = num_shared * width
            return MoeMlp(
                make_router(fields, dims.hidden, num_experts, top_k),
                Experts(dims.hidden, width, num_experts, unit),
                GatedMlp(dims.hidden, shared, dims.activation) if shared else None,
            )

        layers = [
            PreNormLayer(
                LatentAttention(index, dims, fields, rotary, bias=bias),
                mlp(index),
                dims.hidden,
                dims.eps,
            )
            for index in range(dims.num_layers)
        ]
        super().__init__(config, dims, layers, dict.fromkeys(range(dims.num_layers), shape))


class DeepseekV2(_Deepseek):
    """``topk_method`` greedy or group_limited_greedy; without ``q_lora_rank`` it is the Lite."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config, _v2_router)


class DeepseekV3(_Deepseek):
    """Also R1 and what else has ``model_type`` deepseek_v3."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        interleaved = config.get("rope_interleave", True) is not False
        super().__init__(config, _v3_router, interleaved=interleaved)


def latent_shape(fields: Fields) -> KvShape:
    """What one layer caches a token: the latent, then the rotary key."""
    latent = fields.required("kv_lora_rank")
    rope_dim = fields.required("qk_rope_head_dim")
    return KvShape(num_heads=1, key_dim=latent + rope_dim, value_dim=0, latent_dim=latent)


def _scaling(fields: Fields) -> float:
    has = fields.has("routed_scaling_factor")
    return fields.number("routed_scaling_factor") if has else 1.0


def _groups(fields: Fields, num_experts: int) -> dict[str, int]:
    """``num_groups`` and ``top_groups``, which are 1 where nothing is said."""
    groups = fields.optional("n_group", default=1, least=1, most=num_experts)
    if num_experts % groups:
        raise fields.fail("n_group", f"{groups} does not divide {num_experts} experts")
    top = fields.optional("topk_group", default=1, least=1, most=groups)
    return {"num_groups": groups, "top_groups": top}


def _v2_router(fields: Fields, hidden: int, num_experts: int, top_k: int) -> Router:
    method = fields.text("topk_method", default="greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise UnsupportedError(
            f"config.json: topk_method {method!r} is not supported for deepseek_v2; "
            "known are greedy and group_limited_greedy"
        )
    if fields.flag("norm_topk_prob"):
        raise UnsupportedError("config.json: norm_topk_prob true is not supported for deepseek_v2")
    greedy = method == "greedy"
    groups = {"num_groups": 1, "top_groups": 1} if greedy else _groups(fields, num_experts)
    return GroupedSoftmaxRouter(hidden, num_experts, top_k, scale=_scaling(fields), **groups)


def _v3_router(fields: Fields, hidden: int, num_experts: int, top_k: int) -> Router:
    return GroupedSigmoidRouter(
        hidden,
        num_experts,
        top_k,
        scale=_scaling(fields),
        normalize=fields.flag("norm_topk_prob", default=True),
        **_groups(fields, num_experts),
    )


def _in_best_groups(scores_TG: Tensor, top_groups: int, num_experts: int) -> Tensor:
    """[T, E], True for experts of the ``top_groups`` groups with the largest scores."""
    best = scores_TG.topk(top_groups, dim=-1)[1]
    chosen_TG = torch.zeros_like(scores_TG, dtype=torch.bool).scatter(-1, best, True)
    return chosen_TG.repeat_interleave(num_experts // scores_TG.shape[-1], dim=-1)
