"""The image encoder beside a language model: its parameters, from its configuration.

A vision transformer is layers of attention (four square matrices) and a two- or three-matrix
feed-forward, a patch embedding, a table of positions and a projector to the language model's
width. Left out: what differs by less than a percent between implementations (class tokens,
clipping ranges). Towers given by an unknown layout are counted by the same shapes, and noted.
"""

from plimsoll.spec.hf.conventions import conventions_for
from plimsoll.spec.hf.fields import Fields
from plimsoll.spec.model import VisionTower

__all__ = ["read_vision"]

_WIDTH = 2**20
_GATED = {"gemma4_vision", "qwen2_5_vl"}


def read_vision(fields: Fields, text: Fields, *, hidden: int) -> VisionTower | None:
    """The tower that ``vision_config`` describes, or None where there is none."""
    vision = fields.section("vision_config")
    if vision is None:
        usual = conventions_for(fields.text("model_type")).vision
        if usual and "text_config" in fields.data:
            text.assume("no vision_config: the vision tower is that of the published model")
            return VisionTower(**usual)
        return None
    depth_names = ("depth", "num_hidden_layers", "vt_num_hidden_layers")
    width_names = ("embed_dim", "vt_hidden_size", "hidden_size")
    if not vision.has(*depth_names) or not vision.has(*width_names):
        text.assume("the vision tower gives no depth or width: its weights are not counted")
        return None
    depth = vision.required(*depth_names, most=10_000)
    width = vision.required(*width_names, most=_WIDTH)
    inner = vision.optional(
        "intermediate_size", "vt_intermediate_size", default=4 * width, least=1, most=_WIDTH
    )
    kind = vision.text("model_type")
    attention_width = vision.optional("qkv_hidden_size", default=width, least=1, most=_WIDTH)
    matrices = 3 if kind in _GATED else 2
    layer = 4 * width * attention_width + matrices * width * inner + 4 * width
    if matrices == 2 and vision.flag("linear_bias", default=True):
        layer += 4 * width + inner + width
    patch = vision.optional("patch_size", default=14, least=1, most=1024)
    frames = vision.optional("temporal_patch_size", default=1, least=1, most=1024)
    embedding = 3 * frames * patch * patch * width
    positions = vision.optional("num_position_embeddings", default=0)
    positions += 2 * vision.optional("position_embedding_size", default=0)
    positions += vision.optional("init_pos_emb_height", default=0, most=2**15) * vision.optional(
        "init_pos_emb_width", default=0, most=2**15
    )
    if not positions and vision.has("image_size"):
        positions = (vision.optional("image_size", default=0, most=2**20) // patch) ** 2
    projector = _projector(vision, width, hidden)
    total = depth * layer + embedding + positions * width + projector
    if total > 2**40:
        raise vision.fail("hidden_size", f"a vision tower of {total:,} parameters is absurd")
    return VisionTower(num_layers=depth, hidden_size=width, parameters=total)


def _projector(vision: Fields, width: int, hidden: int) -> int:
    """Two matrices where neighboring patches are merged, one where they are pooled."""
    merge = vision.optional("spatial_merge_size", default=0, most=64) ** 2
    if not merge and vision.has("merge_kernel_size"):
        merge = 1
        for side in vision.counts("merge_kernel_size", least=1, most=64):
            merge *= side
    if not merge:
        return width * hidden
    out = vision.optional("out_hidden_size", default=hidden, least=1, most=_WIDTH)
    joined = merge * width
    one = joined * joined + joined * out + joined + out
    return one * (1 + len(vision.counts("deepstack_visual_indexes")))
