"""From a checkpoint's tensor names to a model's parameter names, and back.

A family has two functions. ``place`` takes one stored tensor and yields the parts of the model's
parameters that it fills: none (not needed), one, or several (fused matrices are split here).
``export`` takes all of a model's tensors and gives them their stored names. Here is the plain
pair, which drops or adds the ``model.`` in front of all but the output head.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Export", "Part", "Place", "language_name", "plain_export", "plain_place"]


class Part(NamedTuple):
    """A tensor for ``parameter[at]``; ``at`` () is the whole parameter."""

    name: str
    tensor: Tensor
    at: tuple[int, ...] = ()


Place = Callable[[str, Tensor, Mapping[str, Any]], Iterator[Part]]
"""(stored name, tensor, configuration) to parts. Runs on meta tensors too: look at shapes only."""

Export = Callable[[Mapping[str, Tensor], Mapping[str, Any]], dict[str, Tensor]]
"""(the model's tensors by name, configuration) to tensors by stored name."""

_HEAD = "lm_head."
_LANGUAGE = {"language_model.lm_head.": "lm_head.", "language_model.model.": "model."}
_LANGUAGE |= {"model.language_model.": "model.", "lm_head.": "lm_head."}


def plain_place(name: str, tensor: Tensor, config: Mapping[str, Any]) -> Iterator[Part]:
    """The same name without ``model.``; rotary tables of old checkpoints are not needed."""
    if not name.endswith(".rotary_emb.inv_freq"):
        yield Part(name.removeprefix("model."), tensor)


def plain_export(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The same names with ``model.`` in front of all but the head's."""
    return {n if n.startswith(_HEAD) else f"model.{n}": t for n, t in tensors.items()}


def language_name(name: str) -> str:
    """The name a tensor of a multimodal checkpoint has in its language model; "" if outside."""
    for prefix, plain in _LANGUAGE.items():
        if name.startswith(prefix):
            return plain + name.removeprefix(prefix)
    return ""
