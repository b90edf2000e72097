"""Mixers without a growing cache: gated delta rule (two families) and Mamba-2 state space.

``linear_*`` fields describe Qwen's gated delta net, ``linear_attn_config`` Kimi's delta
attention (decay per channel, low-rank projections), ``mamba_*`` / ``ssm_*`` a Mamba-2 mixer.
Lightning attention (``attn_type_list``) has the same matrices without convolution and with fixed
decays. Mamba-1 is refused: its shapes differ.
"""

from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.hf.fields import Fields
from plimsoll.spec.model import LinearAttention, StateSpace

__all__ = ["read_lightning", "read_linear_attention", "read_state_space"]

_HEADS = 2**16
_DIM = 2**16
_STATE_DTYPES = {"float32": DType.FP32, "bfloat16": DType.BF16, "float16": DType.FP16}


def _state_dtype(fields: Fields) -> DType:
    name, _ = fields.find("mamba_ssm_cache_dtype", "mamba_ssm_dtype")
    if not name:
        return DType.FP32
    value = fields.text(name)
    if value not in _STATE_DTYPES:
        known = ", ".join(_STATE_DTYPES)
        raise fields.fail(name, f"unknown number format {value!r}; expected one of {known}")
    return _STATE_DTYPES[value]


def read_linear_attention(fields: Fields) -> LinearAttention:
    """The linear-attention mixer of every layer that has one."""
    nested = fields.section("linear_attn_config")
    if nested is not None:
        heads = nested.required("num_heads", most=_HEADS)
        dim = nested.required("head_dim", most=_DIM)
        fields.missing += [f"linear_attn_config.{name}" for name in nested.missing]
        return LinearAttention(
            num_k_heads=heads,
            num_v_heads=heads,
            head_k_dim=dim,
            head_v_dim=dim,
            conv_kernel=nested.optional("short_conv_kernel_size", default=4, most=1024),
            gate_rank=0 if nested.flag("use_full_rank_gate") else dim,
            per_channel_decay=True,
            decay_rank=dim,
            state_dtype=_state_dtype(fields),
        )
    k_heads = fields.required("linear_num_key_heads", most=_HEADS)
    v_heads = fields.required("linear_num_value_heads", most=_HEADS)
    if v_heads % k_heads and not fields.missing:
        raise fields.fail(
            "linear_num_value_heads", f"{v_heads} is not a multiple of {k_heads} key heads"
        )
    return LinearAttention(
        num_k_heads=k_heads,
        num_v_heads=v_heads,
        head_k_dim=fields.required("linear_key_head_dim", most=_DIM),
        head_v_dim=fields.required("linear_value_head_dim", most=_DIM),
        conv_kernel=fields.optional("linear_conv_kernel_dim", default=4, most=1024),
        state_dtype=_state_dtype(fields),
    )


def read_lightning(fields: Fields, hidden: int) -> LinearAttention:
    """Linear attention on the softmax layers' heads: no convolution, a gated output."""
    heads = fields.required("num_attention_heads", most=_HEADS)
    dim = fields.optional("head_dim", default=max(1, hidden // heads), least=1, most=_DIM)
    fields.assume("lightning attention is counted as gated linear attention without convolution")
    return LinearAttention(
        num_k_heads=heads,
        num_v_heads=heads,
        head_k_dim=dim,
        head_v_dim=dim,
        conv_kernel=0,
        state_dtype=_state_dtype(fields),
    )


def read_state_space(fields: Fields) -> StateSpace:
    """The Mamba-2 mixer of every layer that has one.

    Raises:
        UnsupportedError: the fields are those of Mamba-1.
    """
    if fields.has("mamba_dt_rank", "time_step_rank") and not fields.has(
        "mamba_num_heads", "mamba_n_heads"
    ):
        raise UnsupportedError(
            f"{fields.where}: Mamba-1 layers (mamba_dt_rank) are not described yet; "
            "Mamba-2 layers (mamba_num_heads) are"
        )
    return StateSpace(
        num_heads=fields.required("mamba_num_heads", "mamba_n_heads", most=_HEADS),
        head_dim=fields.required("mamba_head_dim", "mamba_d_head", most=_DIM),
        state_size=fields.required("ssm_state_size", "mamba_d_state", "state_size", most=_DIM),
        num_groups=fields.required("n_groups", "mamba_n_groups", "mamba_num_groups", most=_HEADS),
        conv_kernel=fields.optional("conv_kernel", "mamba_d_conv", default=4, most=1024),
        conv_bias=fields.flag("use_conv_bias", "mamba_conv_bias", default=True),
        projection_bias=fields.flag("mamba_proj_bias"),
        state_dtype=_state_dtype(fields),
    )
