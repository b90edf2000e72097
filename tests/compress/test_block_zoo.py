"""The store of blocks: what is shared, what never is, and chains across widths."""
# ruff: noqa: E402

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from plimsoll.compress.block_zoo import BlockZoo
from plimsoll.compress.stitching import StitchPair, learn_stitch
from plimsoll.models.block_chain import BlockChain, cut
from plimsoll.models.context import FullContext
from plimsoll.models.loading import build
from plimsoll.models.lora import attach, new_lora
from plimsoll.spec.errors import SpecError, UnsupportedError

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
PROBE = torch.randint(0, 64, (6, 24), generator=torch.Generator().manual_seed(5))


def model(seed: int = 0, **changes: Any) -> Any:
    made = build({**CONFIG, **changes})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
    return made.requires_grad_(False)


def changed(seed: int, noise: float) -> Any:
    """A copy of model 0 with noise on its matrices."""
    made = model()
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        if parameter.ndim == 2:
            parameter += noise * torch.randn(parameter.shape, generator=generator)
    return made


def adapted(seed: int) -> Any:
    made = model()
    generator = torch.Generator().manual_seed(seed)
    for index, layer in enumerate(made.layers):
        for target in ("self_attn.q_proj", "mlp.down_proj"):
            lora = new_lora(layer.get_submodule(target), 2, generator)
            lora.a_RC.requires_grad_(False)
            with torch.no_grad():
                lora.b_DR.normal_(0.0, 0.2, generator=generator)
            attach(made, {f"layers.{index}.{target}": lora})
    return made


def scores(decoder: Any, tokens: Tensor = PROBE) -> Tensor:
    with torch.no_grad():
        context = FullContext(*tokens.shape)
        return decoder.logits(decoder(tokens.flatten(), context.positions(), context))


def zoo_of(**models: Any) -> BlockZoo:
    zoo = BlockZoo(PROBE)
    for name, made in models.items():
        zoo.add(name, made, vocabulary="words")
    return zoo


def test_models_by_adapter_share_all_else_and_score_the_same_bits() -> None:
    children = {f"child{i}": adapted(i) for i in range(3)}
    zoo = zoo_of(base=model(), **children)
    assert len(zoo.blocks) == 6, "those of one model"
    adapters = zoo.stored_bytes - zoo_of(base=model()).stored_bytes
    assert adapters == 3 * 2 * (2 * (32 + 32) + 2 * (48 + 32)) * 4
    assert zoo.separate_bytes == 4 * sum(p.nbytes for p in model().parameters())
    for name, child in children.items():
        assert torch.equal(scores(zoo.assemble(name)), scores(child))
        assert not torch.equal(scores(child), scores(model()))


def test_an_equal_model_costs_nothing_and_a_near_one_is_shared() -> None:
    zoo = zoo_of(base=model(), twin=model(), near=changed(1, 1e-4))
    assert zoo.stored_bytes == zoo_of(base=model()).stored_bytes
    assert zoo.assemble("near").layers[0].mlp.up_proj.weight.data_ptr() == (
        zoo.assemble("base").layers[0].mlp.up_proj.weight.data_ptr()
    )


def test_only_what_a_model_changed_is_stored_again() -> None:
    tuned = model()
    tuned.layers[1].mlp.down_proj.weight *= -1
    zoo = zoo_of(base=model(), tuned=tuned)
    names = [block.name for block in zoo.chain("tuned")]
    assert [n for n in names if n.startswith("tuned/")] == ["tuned/1.mlp"]
    assert torch.equal(scores(zoo.assemble("tuned")), scores(tuned))


def test_weights_that_look_alike_do_not_suffice() -> None:
    """A norm's gain is 32 of thousands of numbers and turns the block around."""
    tuned = model()
    tuned.layers[0].input_layernorm.weight[:5] *= -1
    zoo = BlockZoo(PROBE, least_output_cosine=0.98)
    zoo.add("base", model(), vocabulary="words")
    (block,) = [b for b in cut("tuned", tuned, vocabulary="words") if b.name == "tuned/0.attention"]
    found = zoo.compare("base/0.attention", block)
    assert found.weights is not None and found.weights > 0.9 and found.outputs < 0.98
    assert not found.equal


def test_untrained_layers_are_never_alike_and_noisy_copies_always() -> None:
    zoo = zoo_of(base=model())
    for seed in range(1, 11):
        for name, at in (("base/0.attention", 1), ("base/1.mlp", 4)):
            other = cut("other", model(seed), vocabulary="words")[at]
            copy = cut("copy", changed(seed, 1e-4), vocabulary="words")[at]
            assert not zoo.compare(name, other).equal
            assert zoo.compare(name, copy).equal


def test_other_vocabularies_never_match() -> None:
    zoo = BlockZoo(PROBE)
    zoo.add("base", model(), vocabulary="words")
    zoo.add("foreign", model(), vocabulary="other words")
    for block in ("0.attention", "1.mlp", "head", "embed"):
        found = zoo.equivalence(f"base/{block}", f"foreign/{block}")
        assert (found.equal, found.outputs) == (False, 0.0)
    assert len(zoo.blocks) == 12
    chain = [b.name for b in zoo.chain("base")]
    chain[-1] = "foreign/head"
    with pytest.raises(SpecError, match="base/1.mlp and foreign/head: made for the vocabularies"):
        zoo.join(tuple(chain))
    with pytest.raises(SpecError, match="no stitch joins them"):
        zoo.stitch("base/1.mlp", "foreign/head")


def doubled(narrow: Any) -> Any:
    """The same function at twice the width: every number of the residual stream twice."""
    wide = build({**CONFIG, "hidden_size": 64, "tie_word_embeddings": False})
    given = narrow.state_dict()
    made = {}
    for name, target in wide.state_dict().items():
        source = given["embed_tokens.weight" if name == "lm_head.weight" else name]
        if source.ndim == 1 or name.endswith(("o_proj.weight", "down_proj.weight")):
            made[name] = torch.cat([source, source])
        else:
            half = 1.0 if name.startswith("embed") else 0.5
            made[name] = torch.cat([source, source], dim=1) * half
        assert made[name].shape == target.shape
    wide.load_state_dict(made)
    return wide.requires_grad_(False)


def test_widths_join_by_a_stitch_or_not_at_all() -> None:
    narrow = model()
    zoo = zoo_of(narrow=narrow, wide=doubled(narrow))
    assert torch.allclose(scores(zoo.assemble("wide")), scores(narrow), atol=1e-4)
    found = zoo.equivalence("narrow/0.mlp", "wide/0.mlp")
    assert found.weights is None and found.equal, "they do the same"
    a, b = zoo.chain("narrow"), zoo.chain("wide")
    mixed = tuple(block.name for block in (*a[:3], *b[3:]))
    with pytest.raises(SpecError, match="narrow/0.mlp is 32 wide and wide/1.attention 64; learn a"):
        zoo.join(mixed)
    before = zoo.stored_bytes
    assert zoo.stitch("narrow/0.mlp", "wide/1.attention") < 1e-6
    assert zoo.stored_bytes - before == 64 * 33 * 4
    joined = zoo.join(mixed)
    assert torch.allclose(scores(joined), scores(narrow), atol=1e-3)


def test_the_depth_tells_pairs_of_one_stitch_apart() -> None:
    x = torch.randn(200, 4)
    low, high = (
        StitchPair(x, x @ torch.eye(4, 3), 0.25),
        StitchPair(x, x @ torch.eye(4, 3) + 1, 0.75),
    )
    both, left = learn_stitch([low, high])
    assert left < 0.3, "one map for two depths, a quarter of the way off"
    assert both.weight_CK[:, -1].abs().min() > 0.5
    with pytest.raises(SpecError, match="9 tokens of probe text"):
        learn_stitch([StitchPair(x[:9], x[:9], 0.5)])
    with pytest.raises(SpecError, match="expected one pair of widths"):
        learn_stitch([low, StitchPair(x, x, 0.5)])


def test_bad_input_is_named() -> None:
    zoo = zoo_of(base=model())
    with pytest.raises(SpecError, match="'base' is in the zoo already"):
        zoo.add("base", model(), vocabulary="words")
    with pytest.raises(SpecError, match="'a/b' is no name"):
        zoo.add("a/b", model(), vocabulary="words")
    with pytest.raises(SpecError, match="no block 'base/0.mpl'. Did you mean base/0.mlp"):
        zoo.equivalence("base/0.mpl", "base/1.mlp")
    with pytest.raises(SpecError, match="no model 'bass'. Did you mean base"):
        zoo.assemble("bass")
    with pytest.raises(SpecError, match="expected embed, then attention and mlp"):
        BlockChain(zoo.chain("base")[:2])
    with pytest.raises(UnsupportedError, match="this is a Linear"):
        zoo.add("line", nn.Linear(2, 2), vocabulary="words")  # type: ignore[arg-type]
    wide = cut("wide", doubled(model()), vocabulary="words")[1]
    with pytest.raises(SpecError, match="of different shapes"):
        zoo.compare("base/0.attention", wide)
