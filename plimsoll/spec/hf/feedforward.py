"""The feed-forward part of each layer: dense, mixture of experts, or both at once.

Which layers hold experts is said by ``mlp_layer_types``, ``moe_layer_freq`` (a list or a
number), ``interleave_moe_layer_step``, ``decoder_sparse_step``, ``mlp_only_layers``,
``moe_layers`` or ``first_k_dense_replace``; with none of them, every layer does. Whether a
feed-forward is gated follows from its activation unless the model type is known to differ.
"""

from plimsoll.spec.hf.conventions import Conventions
from plimsoll.spec.hf.fields import Fields
from plimsoll.spec.model import DenseFfn, MoeFfn

__all__ = ["FeedForwardReader"]

_WIDTH = 2**24
_EXPERTS = 2**16
_UNGATED = {"relu", "relu2", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu"}
_GATED = {"silu", "swish", "swiglu", "geglu", "swigluoai", "situ", "reglu"}


class FeedForwardReader:
    """Reads the feed-forward fields once; :meth:`at` gives the part of one layer."""

    def __init__(
        self, fields: Fields, conventions: Conventions, *, hidden: int, num_layers: int
    ) -> None:
        self.fields = fields
        self.num_layers = num_layers
        self.bias = conventions.ffn_bias or fields.flag("mlp_bias", "use_mlp_bias")
        if fields.has("ffn_bias"):
            self.bias = fields.flag("ffn_bias")
        self.num_experts = self._experts()
        self.gated = self._gated(conventions)
        self._read_widths(conventions, hidden)
        if self.num_experts:
            self._read_moe(conventions)
            self._read_layout()

    def _experts(self) -> int:
        count = self.fields.optional(
            "n_routed_experts",
            "num_local_experts",
            "num_experts",
            "moe_num_experts",
            "num_routed_experts",
            default=0,
            most=_EXPERTS,
        )
        if self.fields.has("enable_moe_block") and not self.fields.flag("enable_moe_block"):
            return 0
        return count if count > 1 else 0

    def _gated(self, conventions: Conventions) -> bool:
        if conventions.gated is not None:
            return conventions.gated
        name, value = self.fields.find(
            "mlp_hidden_act", "hidden_act", "hidden_activation", "activation_function"
        )
        if not name:
            if not conventions.known:
                self.fields.assume("no activation is given: feed-forward parts are gated")
            return True
        if not isinstance(value, str):
            raise self.fields.fail(name, f"{value!r} is not the name of an activation")
        if value in _GATED:
            return True
        if value in _UNGATED:
            if not conventions.known:
                self.fields.assume(f"{name} is {value!r}: feed-forward parts have no gate")
            return False
        self.fields.assume(f"{name} {value!r} is not known: feed-forward parts are gated")
        return True

    def _read_widths(self, conventions: Conventions, hidden: int) -> None:
        names: tuple[str, ...] = (
            "intermediate_size",
            "ffn_dim",
            "n_inner",
            "ffn_hidden_size",
            "inner_hidden_size",
        )
        if self.fields.has("intermediate_size_mlp"):
            names = ("intermediate_size_mlp", *names)
        if self.fields.has("dense_intermediate_size"):
            names = ("dense_intermediate_size", *names)
        self.width = 0
        if self.fields.has(*names):
            self.width = self.fields.required(*names, most=_WIDTH)
        elif conventions.four_h:
            self.width = 4 * hidden
        self.wide_shared = self.fields.flag("use_double_wide_mlp")
        self.num_kv_shared = self.fields.optional("num_kv_shared_layers", default=0, most=10_000)

    def _read_moe(self, conventions: Conventions) -> None:
        fields = self.fields
        self.top_k = fields.required(
            "num_experts_per_tok",
            "num_experts_per_token",
            "experts_per_token",
            "top_k_experts",
            "moe_top_k",
            "moe_topk",
            "moe_k",
            "moe_router_topk",
        )
        if self.top_k > self.num_experts:
            raise fields.fail("num_experts_per_tok", f"{self.top_k} of {self.num_experts} experts")
        self.expert_width = fields.required(
            "moe_intermediate_size",
            "expert_intermediate_size",
            "moe_ffn_hidden_size",
            "intermediate_size",
            most=_WIDTH,
        )
        num_shared = fields.optional(
            "n_shared_experts", "num_shared_experts", "n_shared_expert", default=0, most=1024
        )
        self.shared_width = fields.optional(
            "moe_shared_expert_intermediate_size",
            "shared_expert_intermediate_size",
            "share_expert_dim",
            "shared_intermediate_size",
            default=num_shared * self.expert_width,
            most=_WIDTH,
        )
        if fields.has("n_shared_experts", "num_shared_experts") and not num_shared:
            self.shared_width = 0
        if conventions.shared_expert and not self.shared_width:
            self.shared_width = self.expert_width
        self.shared_gate = conventions.shared_gate and self.shared_width > 0
        self.expert_bias = conventions.expert_bias
        self.router_bias = (
            conventions.router_bias
            or fields.flag("use_routing_bias", "use_moe_router_bias", "moe_router_bias")
            or fields.text("topk_method") == "noaux_tc"
        )
        self.latent_dim = fields.optional(
            "moe_latent_size", "routed_expert_hidden_size", default=0, most=2**24
        )
        self.beside_dense = fields.flag("enable_moe_block")

    def _read_layout(self) -> None:
        fields, count = self.fields, self.num_layers
        kinds = fields.names("mlp_layer_types", length=count)
        first_dense = fields.optional(
            "first_k_dense_replace", "num_dense_layers", default=0, most=10_000
        )
        step = fields.optional(
            "interleave_moe_layer_step", "decoder_sparse_step", default=1, least=1, most=10_000
        )
        dense_only = set(fields.counts("mlp_only_layers", most=10_000))
        listed = fields.counts("moe_layers", most=10_000)
        if kinds:
            self.moe = [kind != "dense" for kind in kinds]
        elif listed:
            self.moe = [index in set(listed) for index in range(count)]
        elif isinstance(fields.data.get("moe_layer_freq"), list):
            flags = fields.counts("moe_layer_freq", length=count, least=0, most=1)
            self.moe = [flag == 1 for flag in flags]
        else:
            freq = fields.optional("moe_layer_freq", default=1, least=1, most=10_000)
            self.moe = [
                index >= first_dense
                and index % freq == 0
                and (index + 1) % step == 0
                and index not in dense_only
                for index in range(count)
            ]
        if not all(self.moe) and not self.width:
            fields.need("intermediate_size")

    def need_dense(self) -> None:
        """Note a missing width if a dense layer will be asked for."""
        if not self.num_experts and not self.width:
            self.fields.need("intermediate_size", "ffn_dim", "n_inner")

    def experts(self) -> MoeFfn:
        """The mixture-of-experts part."""
        return MoeFfn(
            num_experts=self.num_experts,
            top_k=self.top_k,
            intermediate=self.expert_width,
            shared_intermediate=self.shared_width,
            shared_gate=self.shared_gate,
            dense_intermediate=self.width if self.beside_dense else 0,
            gated=self.gated,
            bias=self.expert_bias,
            router_bias=self.router_bias,
            latent_dim=self.latent_dim,
        )

    def dense(self, width: int = 0) -> DenseFfn:
        """A dense part of ``width``, or of the configured width."""
        return DenseFfn(intermediate=width or self.width, gated=self.gated, bias=self.bias)

    def at(self, index: int) -> DenseFfn | MoeFfn:
        """The feed-forward part of layer ``index``."""
        if self.num_experts and self.moe[index]:
            return self.experts()
        if self.wide_shared and index >= self.num_layers - self.num_kv_shared:
            return self.dense(2 * self.width)
        return self.dense()
