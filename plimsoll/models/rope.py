"""Rotary position embeddings and the ways of stretching them to longer sequences.

Pair i of a head turns by position / theta**(2i/d). The variants change these frequencies, and
some scale cosine and sine: ``linear`` divides all by a factor, ``dynamic`` raises theta, ``yarn``
divides the slow ones only, ``llama3`` does so with a smooth edge in wavelengths, ``longrope`` has
a measured divisor a pair. Old (``rope_scaling``) and new (``rope_parameters``) spelling are read.

Two variants depend on how long a sequence is: ``dynamic`` and ``longrope``. Hugging Face decides
at each forward pass by that pass's longest sequence, so cached keys may have been turned by other
angles than later ones. Here keys must stay valid while many sequences share a pass, so one length
decides for the whole model: ``set_max_length``, else ``max_position_embeddings``. At or below
``original_max_position_embeddings`` longrope takes its short factors, above its long ones.

Left out: multi-axis positions of vision models. Sources: arXiv 2104.09864 (rotary), 2306.15595
(linear), 2309.00071 (yarn), 2402.13753 (longrope), 2407.21783 (llama3).

Legend: T tokens, H query heads, K key heads, D head width, R rotated numbers a head.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plimsoll.spec.errors import SpecError, UnsupportedError

__all__ = [
    "ROPE_KINDS",
    "RopeSettings",
    "Rotary",
    "frequencies",
    "read_rope",
    "set_max_length",
    "yarn_mscale",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSettings:
    """How heads are turned. ``dim`` numbers of each head are, the first ones.

    ``original_max_positions`` is the length trained before stretching, ``attention_factor`` 0
    where it follows from ``factor``. Fields that a kind does not use keep their defaults.
    """

    kind: str
    dim: int
    theta: float
    max_positions: int
    original_max_positions: int = 0
    factor: float = 1.0
    attention_factor: float = 0.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()


class Rotary(nn.Module):
    """Turns queries and keys by their positions; holds no parameters.

    ``interleaved``: pairs are neighbors (0, 1), (2, 3), ... instead of (i, i + R/2).
    """

    def __init__(self, settings: RopeSettings, *, interleaved: bool = False) -> None:
        super().__init__()
        self.settings = settings
        self.interleaved = interleaved
        inv_freq, self.scale = frequencies(settings)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self._turns: _Turns | None = None

    def set_max_length(self, max_length: int) -> None:
        """Take the angles of a sequence of ``max_length`` tokens; see the top of this file."""
        inv_freq, self.scale = frequencies(self.settings, max_length=max_length)
        self._turns = None
        self.inv_freq = inv_freq.to(self.inv_freq.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Rotary":
        """Follow moves between devices, but stay in float32: half precision blurs positions."""
        exact = self.inv_freq
        self._turns = None
        super()._apply(fn, recurse)
        self.inv_freq = exact.to(self.inv_freq.device)
        return self

    def turns(self, positions_T: Tensor, dtype: torch.dtype) -> "_Turns":
        """The turns of a pass, made at its first layer and kept until other positions come.

        ``positions_T`` is not to be changed in place between the layers of a pass.
        """
        kept = self._turns
        if kept is None or kept.positions_T is not positions_T or kept.cos.dtype != dtype:
            kept = self._turns = self._make(positions_T, dtype)
        return kept

    def forget(self) -> None:
        """A new pass begins."""
        self._turns = None

    def _make(self, positions_T: Tensor, dtype: torch.dtype) -> "_Turns":
        angles_TR = positions_T[:, None].float() * self.inv_freq
        cos = (angles_TR.cos() * self.scale).to(dtype)[:, None]
        sin = (angles_TR.sin() * self.scale).to(dtype)[:, None]
        if self.interleaved:
            return _Turns(positions_T, cos, sin)
        return _Turns(positions_T, torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))

    def forward(self, q_THD: Tensor, k_TKD: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """``q_THD`` and ``k_TKD``, turned."""
        turns = self.turns(positions_T, q_THD.dtype)
        turn = _turn_neighbors if self.interleaved else _turn_halves
        return turn(q_THD, turns.cos, turns.sin), turn(k_TKD, turns.cos, turns.sin)


@dataclass(frozen=True, slots=True)
class _Turns:
    """Cosines and sines of a pass, computed in float32: [T, 1, R/2] where pairs are neighbors,
    else [T, 1, R], the first half of the sines negative."""

    positions_T: Tensor
    cos: Tensor
    sin: Tensor


def _turn_halves(x_THD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs are (i, i + R/2) of the first R numbers of each head; the rest pass."""
    width = cos.shape[-1]
    whole = width == x_THD.shape[-1]
    turned = x_THD if whole else x_THD[..., :width]
    out = torch.addcmul(turned * cos, turned.roll(width // 2, -1), sin)
    return out if whole else torch.cat([out, x_THD[..., width:]], dim=-1)


def _turn_neighbors(x_THD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs are (0, 1), (2, 3), ... of the first R numbers of each head; the rest pass."""
    width = 2 * cos.shape[-1]
    first, second = x_THD[..., 0:width:2], x_THD[..., 1:width:2]
    pairs = [first * cos - second * sin, second * cos + first * sin]
    out = torch.stack(pairs, dim=-1).flatten(-2)
    return out if width == x_THD.shape[-1] else torch.cat([out, x_THD[..., width:]], dim=-1)


def set_max_length(model: nn.Module, max_length: int) -> None:
    """Tell every ``Rotary`` of ``model`` the longest sequence that will be run."""
    for module in model.modules():
        if isinstance(module, Rotary):
            module.set_max_length(max_length)


def frequencies(settings: RopeSettings, *, max_length: int = 0) -> tuple[Tensor, float]:
    """[R/2] float32 angles a position, on the CPU, and what cosine and sine are multiplied by.

    ``max_length`` 0: ``settings.max_positions``.
    """
    return _FREQUENCIES[settings.kind](settings, max_length or settings.max_positions)


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    """YaRN's sharpening of attention for a stretch by ``factor``."""
    return 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0


def _pair_exponents(dim: int) -> Tensor:
    return torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim


def _default(settings: RopeSettings, max_length: int) -> tuple[Tensor, float]:
    return 1.0 / settings.theta ** _pair_exponents(settings.dim), 1.0


def _linear(settings: RopeSettings, max_length: int) -> tuple[Tensor, float]:
    inv_freq, scale = _default(settings, max_length)
    return inv_freq / settings.factor, scale


def _dynamic(settings: RopeSettings, max_length: int) -> tuple[Tensor, float]:
    dim, factor = settings.dim, settings.factor
    stretch = max(max_length, settings.max_positions) / settings.max_positions
    theta = settings.theta * (factor * stretch - (factor - 1)) ** (dim / (dim - 2))
    return 1.0 / theta ** _pair_exponents(dim), 1.0


def _yarn(settings: RopeSettings, max_length: int) -> tuple[Tensor, float]:
    dim, factor = settings.dim, settings.factor

    def pair_turning(turns: float) -> float:
        """The (fractional) pair that makes ``turns`` turns over the original length."""
        wavelength = settings.original_max_positions / (turns * 2 * math.pi)
        return dim * math.log(wavelength) / (2 * math.log(settings.theta))

    low, high = pair_turning(settings.beta_fast), pair_turning(settings.beta_slow)
    if settings.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    pairs = torch.arange(dim // 2, dtype=torch.float32, device="cpu")
    slow_fraction = ((pairs - low) / (high - low)).clamp(0, 1)
    fast, _ = _default(settings, max_length)
    inv_freq = fast / factor * slow_fraction + fast * (1 - slow_fraction)
    if settings.attention_factor:
        return inv_freq, settings.attention_factor
    if settings.mscale and settings.mscale_all_dim:
        over = yarn_mscale(factor, settings.mscale_all_dim)
        return inv_freq, yarn_mscale(factor, settings.mscale) / over
    return inv_freq, yarn_mscale(factor)


def _llama3(settings: RopeSettings, max_length: int) -> tuple[Tensor, float]:
    inv_freq, scale = _default(settings, max_length)
    turns = settings.original_max_positions * inv_freq / (2 * math.pi)
    low, high = settings.low_freq_factor, settings.high_freq_factor
    kept_fraction = ((turns - low) / (high - low)).clamp(0, 1)
    return inv_freq * (kept_fraction + (1 - kept_fraction) / settings.factor), scale


def _longrope(settings: RopeSettings, max_length: int) -> tuple[Tensor, float]:
    original = settings.original_max_positions
    divisors = settings.long_factor if max_length > original else settings.short_factor
    inv_freq, _ = _default(settings, max_length)
    inv_freq = inv_freq / torch.tensor(divisors, dtype=torch.float32, device="cpu")
    if settings.attention_factor:
        return inv_freq, settings.attention_factor
    if settings.factor <= 1.0:
        return inv_freq, 1.0
    return inv_freq, math.sqrt(1 + math.log(settings.factor) / math.log(original))


_FREQUENCIES: dict[str, Callable[[RopeSettings, int], tuple[Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}
ROPE_KINDS = tuple(_FREQUENCIES)
_OLD_NAMES = {"su": "longrope"}
_STRETCHED = {"yarn", "llama3", "longrope"}


def read_rope(
    config: Mapping[str, Any],
    head_dim: int,
    *,
    layer_type: str = "",
    theta: float = 10_000.0,
) -> RopeSettings:
    """The settings in a Hugging Face configuration for heads of ``head_dim`` numbers.

    ``layer_type`` picks from parameters listed by type of layer. ``theta`` is the default.

    Raises:
        UnsupportedError: a kind that is not in ``ROPE_KINDS``.
        SpecError: a number is missing or wrong.
    """
    given = dict(config.get("rope_scaling") or {})
    new = config.get("rope_parameters") or {}
    given.update(new[layer_type] or {} if layer_type in new else new)
    kind = given.get("rope_type") or given.get("type") or "default"
    kind = _OLD_NAMES.get(kind, kind)
    if kind not in ROPE_KINDS:
        raise UnsupportedError(
            f"config.json: rope_type {kind!r} is not supported; known are {', '.join(ROPE_KINDS)}"
        )

    def number(name: str, default: float | None = None) -> float:
        value = given.get(name, config.get(name) if name in _ALSO_OUTSIDE else None)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            found = "is missing" if value is None else f"{value!r} is not a number"
            raise SpecError(f"config.json: rope {kind}: {name} {found}")
        return value

    longest = config.get("max_position_embeddings") or 0
    dim = int(head_dim * number("partial_rotary_factor", 1.0))
    if dim < 2 or dim % 2 or dim > head_dim:
        raise SpecError(
            f"config.json: rotary embedding of {dim} numbers in heads of {head_dim}; "
            "expected an even number, at most the head's"
        )
    settings: dict[str, Any] = {}
    if kind in _STRETCHED:
        outside = config.get("original_max_position_embeddings")
        original = outside or number("original_max_position_embeddings", longest or None)
        settings["original_max_positions"] = int(original)
        ratio = longest / original if kind != "llama3" and longest else None
        settings["factor"] = number("factor", ratio)
        settings["attention_factor"] = number("attention_factor", 0.0)
    elif kind != "default":
        settings["factor"] = number("factor")
    if kind == "dynamic" and not longest:
        raise SpecError("config.json: rope dynamic: max_position_embeddings is missing")
    if kind == "yarn":
        for name, default in (("mscale", 0.0), ("mscale_all_dim", 0.0)):
            settings[name] = number(name, default)
        settings["beta_fast"] = number("beta_fast", 32.0) or 32.0
        settings["beta_slow"] = number("beta_slow", 1.0) or 1.0
        settings["truncate"] = bool(given.get("truncate", True))
    if kind == "llama3":
        settings["low_freq_factor"] = number("low_freq_factor")
        settings["high_freq_factor"] = number("high_freq_factor")
    if kind == "longrope":
        for name in ("short_factor", "long_factor"):
            settings[name] = tuple(given.get(name) or ())
            if len(settings[name]) != dim // 2:
                raise SpecError(
                    f"config.json: rope longrope: {name} has {len(settings[name])} numbers; "
                    f"expected {dim // 2}, one a pair"
                )
    return RopeSettings(
        kind=kind, dim=dim, theta=number("rope_theta", theta), max_positions=longest, **settings
    )


_ALSO_OUTSIDE = {"rope_theta", "partial_rotary_factor"}
