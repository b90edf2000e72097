"""Softmax attention read from a configuration: heads, windows, chunks, compression, indexers.

One reader looks at the scalar fields once and then answers for each layer. Which layers attend
to everything is said in one of several ways, tried in this order: ``layer_types`` (or the
hybrid patterns), ``sliding_window`` with a pattern, ``attention_chunk_size``, nothing (all do).
Latent attention is chosen by ``kv_lora_rank``. Left out: rotary settings, soft caps and scales,
which change neither bytes nor operations that count.
"""

from collections.abc import Sequence

from plimsoll.spec.hf.conventions import Conventions
from plimsoll.spec.hf.fields import Fields
from plimsoll.spec.model import Attention, Indexer, LatentAttention

__all__ = ["SoftmaxReader"]

_HEADS = 2**16
_DIM = 2**16
_FULL = {"full_attention", "attention", "global", "full", "deepseek_sparse_attention", "*"}
_WINDOW = {"sliding_attention", "local", "sliding", "sliding_window"}
_CHUNK = {"chunked_attention", "chunked"}


class SoftmaxReader:
    """Reads the attention fields once; :meth:`at` gives the mixer of one layer."""

    def __init__(
        self, fields: Fields, conventions: Conventions, *, hidden: int, num_layers: int
    ) -> None:
        self.fields = fields
        self.conventions = conventions
        self.num_layers = num_layers
        self.num_heads = fields.required(
            "num_attention_heads", "n_head", "n_heads", "num_heads", most=_HEADS
        )
        self.latent = fields.has("kv_lora_rank")
        self.q_lora_rank = fields.optional("q_lora_rank", default=0, most=2**20)
        if self.latent:
            self.kv_lora_rank = fields.required("kv_lora_rank", most=2**20)
            self.nope_dim = fields.required("qk_nope_head_dim", most=_DIM)
            self.rope_dim = fields.optional("qk_rope_head_dim", default=0, most=_DIM)
            self.v_dim = fields.required("v_head_dim", most=_DIM)
        else:
            self._read_heads(hidden)
        self._read_reach()
        self._read_sparse()
        self.bias = fields.flag("attention_bias", "use_bias", "add_bias_linear", default=False)
        self.qkv_bias = conventions.qkv_bias or self.bias
        self.qkv_bias = fields.flag("add_qkv_bias", "qkv_bias", default=self.qkv_bias)
        self.output_bias = conventions.output_bias or self.bias
        self.qk_norm = fields.flag("use_qk_norm", "qk_norm", default=conventions.qk_norm)
        if fields.data.get("model_type") == "llama4_text":
            self.qk_norm = False  # its norm of queries and keys has no weights
        self.output_gate = fields.flag(
            "attn_output_gate",
            "attention_output_gate",
            "mla_use_output_gate",
            default=conventions.output_gate,
        )
        self.full_sinks = fields.flag("add_full_attention_sink_bias", default=conventions.sinks)
        self.window_sinks = fields.flag("add_swa_attention_sink_bias", default=conventions.sinks)

    def _read_heads(self, hidden: int) -> None:
        fields, heads = self.fields, self.num_heads
        multi_query = fields.flag("multi_query") and not fields.flag("new_decoder_architecture")
        given = fields.has(
            "num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"
        )
        if not given and not multi_query and not self.conventions.known:
            fields.assume("num_key_value_heads is not given: one KV head per attention head")
        self.num_kv_heads = fields.optional(
            "num_key_value_heads",
            "num_kv_heads",
            "n_head_kv",
            "multi_query_group_num",
            default=1 if multi_query else heads,
            least=1,
            most=_HEADS,
        )
        if multi_query:
            self.num_kv_heads = 1
        self._check_heads("num_attention_heads", heads, self.num_kv_heads)
        if fields.has("head_dim", "attention_head_dim", "kv_channels", "head_size"):
            self.head_dim = fields.optional(
                "head_dim",
                "attention_head_dim",
                "kv_channels",
                "head_size",
                default=0,
                least=1,
                most=_DIM,
            )
        elif hidden % heads and not fields.missing:
            raise fields.fail(
                "num_attention_heads",
                f"{heads} does not divide hidden_size {hidden}, and there is no head_dim",
            )
        else:
            self.head_dim = max(1, hidden // heads)
        self.v_dim = fields.optional("v_head_dim", default=0, most=_DIM)
        self.window_heads = fields.optional(
            "swa_num_attention_heads", default=heads, least=1, most=_HEADS
        )
        self.window_kv_heads = fields.optional(
            "swa_num_key_value_heads", default=self.num_kv_heads, least=1, most=_HEADS
        )
        self._check_heads("swa_num_attention_heads", self.window_heads, self.window_kv_heads)
        self.window_dim = fields.optional("swa_head_dim", default=self.head_dim, least=1, most=_DIM)
        self.window_v_dim = fields.optional("swa_v_head_dim", default=self.v_dim, most=_DIM)
        self.global_dim = fields.optional(
            "global_head_dim", default=self.head_dim, least=1, most=_DIM
        )
        self.values_from_keys = fields.flag("attention_k_eq_v")
        self.global_kv_heads = self.num_kv_heads
        if self.values_from_keys:
            self.global_kv_heads = fields.optional(
                "num_global_key_value_heads", default=self.num_kv_heads, least=1, most=_HEADS
            )
            self._check_heads("num_attention_heads", heads, self.global_kv_heads)
        self.num_shared = fields.optional("num_kv_shared_layers", default=0, most=10_000)
        self.o_lora_rank = fields.optional("o_lora_rank", default=0, most=2**20)
        self.o_groups = fields.optional("o_groups", default=1, least=1, most=_HEADS)
        if self.o_lora_rank and heads % self.o_groups:
            raise fields.fail("o_groups", f"{self.o_groups} does not divide {heads} heads")

    def _check_heads(self, name: str, heads: int, kv_heads: int) -> None:
        if heads % kv_heads:
            raise self.fields.fail(
                name, f"{heads} attention heads cannot share {kv_heads} KV heads evenly"
            )

    def _read_reach(self) -> None:
        fields = self.fields
        self.window = fields.optional(
            "sliding_window", "sliding_window_size", "window_size", default=0, most=2**31
        )
        if not fields.flag("use_sliding_window", default=True):
            self.window = 0
        self.chunk = fields.optional("attention_chunk_size", default=0, most=2**31)
        self.first_window_layer = 0
        if fields.has("use_sliding_window"):
            self.first_window_layer = fields.optional("max_window_layers", default=0, most=10_000)
        self.pattern = fields.optional(
            "sliding_window_pattern",
            "_sliding_window_pattern",
            default=self.conventions.window_pattern,
            most=10_000,
        )
        self.window_flags = fields.counts(
            "hybrid_layer_pattern", length=self.num_layers, least=0, most=1
        )
        self.rotary_flags = fields.counts("no_rope_layers", length=self.num_layers, least=0, most=1)
        self.global_every = fields.optional(
            "no_rope_layer_interval", default=self.conventions.global_every, most=10_000
        )
        if self.chunk and not self.window and not (fields.has("layer_types", "no_rope_layers")):
            every = self.global_every
            reach = f"every {every}th layer attends to everything" if every else "in all layers"
            fields.assume(f"attention in chunks of {self.chunk:,} tokens; {reach}")
        self.reductions = fields.counts("compress_ratios", length=self.num_layers, most=2**20)

    def _read_sparse(self) -> None:
        fields = self.fields
        self.indexer: Indexer | None = None
        self.indexer_shared: tuple[bool, ...] = ()
        self.sparse_layers: tuple[int, ...] = ()
        nested = fields.section("sparse_attention_config")
        if fields.has("index_topk"):
            self.indexer = Indexer(
                num_heads=fields.required("index_n_heads", most=_HEADS),
                head_dim=fields.required("index_head_dim", most=_DIM),
                top_k=fields.required("index_topk"),
            )
            kinds = fields.names("indexer_types", length=self.num_layers)
            self.indexer_shared = tuple(kind == "shared" for kind in kinds)
        elif nested is not None and nested.flag("use_sparse_attention", default=True):
            block = nested.optional("sparse_block_size", default=1, least=1, most=2**20)
            self.indexer = Indexer(
                num_heads=nested.required("sparse_num_index_heads", most=_HEADS),
                head_dim=nested.required("sparse_index_dim", most=_DIM),
                top_k=block * nested.required("sparse_topk_blocks", most=2**20),
                block_tokens=block,
            )
            self.sparse_layers = nested.counts(
                "sparse_attention_freq", length=self.num_layers, least=0, most=1
            )
            fields.missing += [f"sparse_attention_config.{name}" for name in nested.missing]

    def reach(self, index: int, kind: str) -> str:
        """ "full", "window" or "chunk" for layer ``index``, whose listed kind is ``kind``."""
        if kind in _WINDOW:
            if not self.window:
                raise self.fields.fail("sliding_window", "missing, but layer_types name it")
            return "window"
        if kind in _CHUNK:
            if not self.chunk:
                raise self.fields.fail("attention_chunk_size", "missing, but layer_types name it")
            return "chunk"
        if kind in _FULL:
            return "full"
        if kind:
            raise self.fields.fail(f"layer_types[{index}]", f"unknown kind of layer {kind!r}")
        if self.window_flags:
            return "window" if self.window_flags[index] and self.window else "full"
        if self.window:
            if self.pattern > 0:
                return "full" if (index + 1) % self.pattern == 0 else "window"
            return "window" if index >= self.first_window_layer else "full"
        if self.chunk:
            if self.rotary_flags:
                return "chunk" if self.rotary_flags[index] else "full"
            every = self.global_every
            return "full" if every and (index + 1) % every == 0 else "chunk"
        return "full"

    def _indexer_at(self, index: int) -> Indexer | None:
        if self.indexer is None or (self.sparse_layers and not self.sparse_layers[index]):
            return None
        if self.indexer_shared and self.indexer_shared[index]:
            base = self.indexer
            return Indexer(
                num_heads=base.num_heads,
                head_dim=base.head_dim,
                top_k=base.top_k,
                num_key_heads=base.num_key_heads,
                block_tokens=base.block_tokens,
                shared=True,
            )
        return self.indexer

    def at(self, index: int, kinds: Sequence[str]) -> Attention | LatentAttention:
        """The attention of layer ``index``; ``kinds`` are the listed kinds, () if none are."""
        if self.latent:
            return LatentAttention(
                num_heads=self.num_heads,
                q_lora_rank=self.q_lora_rank,
                kv_lora_rank=self.kv_lora_rank,
                qk_nope_head_dim=self.nope_dim,
                qk_rope_head_dim=self.rope_dim,
                v_head_dim=self.v_dim,
                output_gate=self.output_gate,
                indexer=self._indexer_at(index),
            )
        if self.reductions:
            return self.at_reduction(self.reductions[index])
        reach = self.reach(index, kinds[index] if kinds else "")
        windowed = reach == "window"
        is_global = reach == "full" and self.window > 0
        heads = self.window_heads if windowed else self.num_heads
        kv_heads = self.window_kv_heads if windowed else self.num_kv_heads
        head_dim = self.window_dim if windowed else self.head_dim
        if is_global:
            head_dim, kv_heads = self.global_dim, self.global_kv_heads
        return Attention(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            v_head_dim=self.window_v_dim if windowed else self.v_dim,
            window=self.window if windowed else 0,
            chunk=self.chunk if reach == "chunk" else 0,
            qkv_bias=self.qkv_bias,
            output_bias=self.output_bias,
            qk_norm=self.qk_norm,
            sinks=self.window_sinks if windowed else self.full_sinks,
            output_gate=self.output_gate,
            values_from_keys=self.values_from_keys and not windowed,
            kv_from_layer_below=index >= self.num_layers - self.num_shared,
            q_lora_rank=self.q_lora_rank,
            indexer=self._indexer_at(index),
        )

    def at_reduction(self, reduction: int) -> Attention:
        """One latent head for keys and values, compressed by ``reduction`` (0: window only).

        The indexer belongs to the light compression; heavily compressed layers read it all.
        """
        light = min((r for r in self.reductions if r > 1), default=0)
        return Attention(
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            v_head_dim=self.v_dim,
            window=self.window,
            sinks=self.full_sinks,
            keys_are_values=True,
            kv_reduction=max(1, reduction),
            q_lora_rank=self.q_lora_rank,
            o_lora_rank=self.o_lora_rank,
            o_groups=self.o_groups,
            indexer=self.indexer if reduction > 1 and reduction == light else None,
        )
