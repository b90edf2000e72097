"""Devices and models small enough to reason about, for cost tests."""

from plimsoll.spec.dtype import DType
from plimsoll.spec.fleet import load_device
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import (
    Attention,
    DenseFfn,
    Indexer,
    LatentAttention,
    Layer,
    LayerGroup,
    LinearAttention,
    ModelSpec,
    MoeFfn,
    Quantization,
    StateSpace,
)

__all__ = ["H100", "MODELS", "dense", "latent_moe"]

H100: Device = load_device("H100-SXM")


def dense(num_layers: int = 80) -> ModelSpec:
    """The shape of Llama-3.1-70B."""
    layer = Layer(
        mixer=Attention(num_heads=64, num_kv_heads=8, head_dim=128),
        ffn=DenseFfn(intermediate=28672),
    )
    return ModelSpec(
        name="dense",
        hidden_size=8192,
        vocab_size=128256,
        max_context=131072,
        layers=(LayerGroup(count=num_layers, layer=layer),),
    )


def latent_moe() -> ModelSpec:
    """The shape of DeepSeek-V3, weights in 8 bits."""
    mixer = LatentAttention(
        num_heads=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
    )
    experts = MoeFfn(num_experts=256, top_k=8, intermediate=2048, shared_intermediate=2048)
    block = DType.FP8_BLOCK
    return ModelSpec(
        name="latent",
        hidden_size=7168,
        vocab_size=129280,
        max_context=131072,
        layers=(
            LayerGroup(count=3, layer=Layer(mixer=mixer, ffn=DenseFfn(intermediate=18432))),
            LayerGroup(count=58, layer=Layer(mixer=mixer, ffn=experts)),
        ),
        quantization=Quantization(mixer=block, ffn=block, experts=block, shared_experts=block),
    )


def _mixed() -> ModelSpec:
    """Windows, chunks, an indexer, compressed KV, linear attention, state space, experts."""
    window = Attention(num_heads=32, num_kv_heads=4, head_dim=64, window=1024)
    chunk = Attention(num_heads=32, num_kv_heads=4, head_dim=64, chunk=4096)
    sparse = Attention(
        num_heads=32,
        num_kv_heads=4,
        head_dim=64,
        indexer=Indexer(num_heads=16, head_dim=128, top_k=2048),
    )
    packed = Attention(num_heads=32, num_kv_heads=1, head_dim=128, window=128, kv_reduction=4)
    linear = LinearAttention(num_k_heads=16, num_v_heads=32, head_k_dim=128, head_v_dim=128)
    state = StateSpace(num_heads=64, head_dim=64, state_size=128, num_groups=8)
    ffn = DenseFfn(intermediate=8192)
    experts = MoeFfn(num_experts=64, top_k=4, intermediate=1024, gated=False)
    layers = [Layer(mixer=m, ffn=ffn) for m in (window, chunk, sparse, packed, linear)]
    layers.append(Layer(mixer=state, ffn=experts))
    return ModelSpec(
        name="mixed",
        hidden_size=2048,
        vocab_size=32000,
        max_context=131072,
        layers=tuple(LayerGroup(count=4, layer=layer) for layer in layers),
    )


MODELS = {"dense": dense(), "latent-moe": latent_moe(), "mixed": _mixed()}
