"""Children of the small model: trained once, kept, and different where they should be."""
# ruff: noqa: E402

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from plimsoll.evals import tinylm, tinylm_children
from plimsoll.evals.tinylm_corpus import make_corpus, normalized
from plimsoll.models.lora import adapters_of


@pytest.mark.slow
def test_a_family_is_trained_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydoc_data.topics import topics

    corpus = make_corpus([normalized(topics[name]) for name in sorted(topics)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for module in (tinylm, tinylm_children):
        monkeypatch.setattr(module, "read_corpus", lambda: corpus)
    monkeypatch.setattr(tinylm_children, "PARENT_STEPS", 1)
    monkeypatch.setattr(tinylm_children, "_ADAPTER_STEPS", 1)
    monkeypatch.setattr(tinylm_children, "_FULL_STEPS", {"language": 1, "code": 1})
    monkeypatch.setattr(tinylm_children, "_SOURCES_OF_CODE", 8)
    monkeypatch.setattr(tinylm_children, "ADAPTED", {"files": "file", "classes": "class"})
    told: list[str] = []
    family = tinylm_children.tiny_family(told.append)
    again = tinylm_children.tiny_family(told.append)
    assert told == ["files", "classes", "language", "code"]
    parent = family.parent.state_dict()  # type: ignore[attr-defined]
    for name in ("files", "classes"):
        loras = adapters_of(family.children[name])  # type: ignore[arg-type]
        kept = adapters_of(again.children[name])  # type: ignore[arg-type]
        assert len(loras) == 8 * 4
        assert all(torch.equal(loras[path].b_DR, kept[path].b_DR) for path in loras)
        assert any(lora.b_DR.abs().sum() > 0 for lora in loras.values())
        table = family.children[name].state_dict()["embed_tokens.weight"]  # type: ignore[attr-defined]
        assert torch.equal(table, parent["embed_tokens.weight"])
    for name in ("language", "code"):
        tuned = family.children[name].state_dict()  # type: ignore[attr-defined]
        assert not torch.equal(
            tuned["layers.0.mlp.up_proj.weight"], parent["layers.0.mlp.up_proj.weight"]
        )
    assert set(family.heldout) == {"parent", "files", "classes", "language", "code"}
    assert all(part.shape[1] == 129 for part in family.heldout.values())
