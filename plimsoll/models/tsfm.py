"""Forecasters of single series by patches: an encoder and a decoder of the same blocks.

A series is normalised by the mean and spread of its context, never of its future, and cut into
patches that do not overlap; a token is a patch with its mask, so that gaps are marked, not filled.
Blocks: RMSNorm, attention with rotary positions, RMSNorm, SwiGLU. The encoder sees everything
both ways and a learned token in place of each patch to forecast; the decoder is causal and says
the next patch. Both put out a mixture of Student-t distributions a point and, in training, say the
same patches of a window. Later patches of a decoder's forecast come from sampled paths.
Leaves out: several variates, covariates, patch sizes by frequency.
Sources: arXiv 2410.12360 (both models compared), 2402.02592 (masked encoder, mixture).

Legend: B series, T tokens (patches), P points a patch, C width, H heads, D head width,
S components.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from plimsoll.models.layers import GatedMlp, RmsNorm
from plimsoll.models.rope import RopeSettings, Rotary
from plimsoll.models.student_mixture import PARAMETERS, StudentTMixture
from plimsoll.spec.errors import SpecError

__all__ = [
    "Forecast",
    "StudentTMixture",
    "TSConfig",
    "TSDecoder",
    "TSEncoder",
    "cut_patches",
    "forecast",
    "init_series_model",
    "instance_scale",
    "non_embedding_params",
]

Floats = npt.NDArray[np.float64]
_EPS = 1e-6
_SCALE_FLOOR = 1e-3
"""Least scale of a context, as a fraction of its level: a constant series has no spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TSConfig:
    """``width`` of the residual stream in ``heads`` heads, ``patch`` points a token."""

    width: int
    heads: int
    layers: int = 2
    expansion: int = 4
    patch: int = 16
    components: int = 3

    def __post_init__(self) -> None:
        if (
            min(self.width, self.heads, self.layers, self.expansion, self.patch, self.components)
            < 1
        ):
            raise SpecError(f"{self}; expected positive whole numbers")
        if self.width % (2 * self.heads):
            raise SpecError(
                f"a width of {self.width} in {self.heads} heads; expected an even number a head"
            )


class _Block(nn.Module):
    def __init__(self, config: TSConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm = RmsNorm(width, _EPS)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = RmsNorm(width, _EPS)
        self.mlp = GatedMlp(width, config.expansion * width, "silu")

    def forward(self, x_BTC: Tensor, rotary: Rotary, positions_T: Tensor, seen: Tensor) -> Tensor:
        """``seen`` [B, 1, T, T]: whether a query may look at a key."""
        num, length, width = x_BTC.shape
        parts = self.qkv(self.attention_norm(x_BTC)).view(num, length, 3, self.heads, -1)
        q_BTHD, k_BTHD, v_BTHD = parts.unbind(2)
        q_BTHD, k_BTHD = rotary(q_BTHD, k_BTHD, positions_T)
        mixed = functional.scaled_dot_product_attention(
            q_BTHD.transpose(1, 2), k_BTHD.transpose(1, 2), v_BTHD.transpose(1, 2), attn_mask=seen
        )
        x_BTC = x_BTC + self.out(mixed.transpose(1, 2).reshape(num, length, width))
        return x_BTC + self.mlp(self.mlp_norm(x_BTC))


class _Stack(nn.Module):
    """What encoder and decoder share: tokens in, mixtures out."""

    def __init__(self, config: TSConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(2 * config.patch, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = RmsNorm(config.width, _EPS)
        self.head = nn.Linear(config.width, config.patch * config.components * PARAMETERS)
        self.rotary = Rotary(
            RopeSettings(
                kind="default", dim=config.width // config.heads, theta=1e4, max_positions=4096
            )
        )

    def tokens(self, patches_BTP: Tensor, seen_BTP: Tensor) -> Tensor:
        """Embedded patches; what was not seen is 0 and marked as such."""
        seen = seen_BTP.to(patches_BTP.dtype)
        return self.embed(torch.cat([patches_BTP.nan_to_num() * seen, seen], dim=-1))

    def run(self, x_BTC: Tensor, look: Tensor) -> Tensor:
        positions_T = torch.arange(x_BTC.shape[1])
        for block in self.blocks:
            x_BTC = block(x_BTC, self.rotary, positions_T, look)
        return self.norm(x_BTC)

    def mixture(self, x_BTC: Tensor) -> StudentTMixture:
        """Of every point of a patch, [B, T, P, S]."""
        raw = self.head(x_BTC)
        shape = (self.config.patch, self.config.components, PARAMETERS)
        return StudentTMixture.from_raw(raw.unflatten(-1, shape))


def _look(known_BT: Tensor, *, causal: bool) -> Tensor:
    """[B, 1, T, T]: tokens that hold something may be looked at, and each at itself."""
    length = known_BT.shape[1]
    look = known_BT[:, None, :].expand(-1, length, -1)
    if causal:
        look = look & torch.ones(length, length, dtype=torch.bool).tril()
    return (look | torch.eye(length, dtype=torch.bool))[:, None]


class TSEncoder(_Stack):
    """Bidirectional; patches to forecast are a learned token."""

    def __init__(self, config: TSConfig) -> None:
        super().__init__(config)
        self.mask_token = nn.Parameter(torch.zeros(config.width))

    def forward(self, context_BTP: Tensor, seen_BTP: Tensor, num_forecast: int) -> StudentTMixture:
        """The ``num_forecast`` patches after the context, [B, num_forecast, P, S]."""
        x = self.tokens(context_BTP, seen_BTP)
        mask = self.mask_token.expand(len(x), num_forecast, -1)
        known = seen_BTP.any(-1)
        known = torch.cat([known, known.new_ones(len(x), num_forecast)], dim=1)
        out = self.run(torch.cat([x, mask], dim=1), _look(known, causal=False))
        return self.mixture(out[:, -num_forecast:])

    def teach(self, window_BTP: Tensor, seen_BTP: Tensor, num_context: int) -> StudentTMixture:
        """What it says of the patches after the first ``num_context`` of a window, from those."""
        known, seen = window_BTP[:, :num_context], seen_BTP[:, :num_context]
        return self(known, seen, window_BTP.shape[1] - num_context)


class TSDecoder(_Stack):
    """Causal; after each patch it says the next."""

    def forward(self, window_BTP: Tensor, seen_BTP: Tensor) -> StudentTMixture:
        """The patch after each of the window's, [B, T, P, S]."""
        look = _look(seen_BTP.any(-1), causal=True)
        return self.mixture(self.run(self.tokens(window_BTP, seen_BTP), look))

    def teach(self, window_BTP: Tensor, seen_BTP: Tensor, num_context: int) -> StudentTMixture:
        """What it says of each patch after the first ``num_context``, from all before it."""
        look = _look(seen_BTP[:, :-1].any(-1), causal=True)
        out = self.run(self.tokens(window_BTP[:, :-1], seen_BTP[:, :-1]), look)
        return self.mixture(out[:, num_context - 1 :])


def init_series_model(model: TSEncoder | TSDecoder, generator: torch.Generator) -> None:
    """Draw all weights: width^-1/2, less where a block adds to the stream, little in the head."""
    config = model.config
    with torch.no_grad():
        for name, part in model.named_modules():
            if not isinstance(part, nn.Linear):
                continue
            std = part.in_features**-0.5
            if name.endswith((".out", "down_proj")):
                std /= math.sqrt(2 * config.layers)
            part.weight.normal_(0, 0.1 * std if name == "head" else std, generator=generator)
            if part.bias is not None:
                part.bias.zero_()
        bias = model.head.bias.view(config.patch, config.components, PARAMETERS)
        bias[..., 1] = torch.linspace(-0.5, 0.5, config.components)
        bias[..., 3] = -2.0
        if isinstance(model, TSEncoder):
            model.mask_token.normal_(0, 1.0, generator=generator)


def non_embedding_params(model: TSEncoder | TSDecoder) -> int:
    """Weights of the blocks' products: no patch embedding, mask token, head or norms."""
    return sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)


def instance_scale(context: Floats) -> tuple[Floats, Floats]:
    """(mean, scale), each [n, 1], of what is known of contexts [n, t], NaN in gaps.

    The scale is at least a thousandth of the level, and 1e-6, so that a constant series has one.

    Raises:
        SpecError: a context without any value.
    """
    known = np.isfinite(context)
    count = known.sum(axis=1, keepdims=True)
    empty = np.flatnonzero(count[:, 0] == 0)
    if len(empty):
        raise SpecError(
            f"series {int(empty[0]) + 1}: no value in its context of {context.shape[1]} points; "
            "expected at least one, so leave it out or give more of its past"
        )
    mean = np.where(known, context, 0.0).sum(axis=1, keepdims=True) / count
    away = np.where(known, context - mean, 0.0)
    spread = np.sqrt((away**2).sum(axis=1, keepdims=True) / count)
    return mean, np.maximum(np.maximum(spread, _SCALE_FLOOR * np.abs(mean)), 1e-6)


def cut_patches(values: Floats, patch: int) -> tuple[Tensor, Tensor]:
    """(patches, seen), [n, T, P] each, of series [n, t]; gaps are 0 and not seen. A length that is
    no multiple of the patch is filled up with gaps at its beginning."""
    short = -values.shape[1] % patch
    whole = np.pad(values, ((0, 0), (short, 0)), constant_values=np.nan)
    parts = whole.reshape(len(values), -1, patch)
    seen = np.isfinite(parts)
    filled = np.where(seen, parts, 0.0).astype(np.float32)
    return torch.from_numpy(filled), torch.from_numpy(seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """``mixture`` of normalised points [n, horizon, S]; ``mean`` and ``scale`` [n, 1] undo it."""

    mixture: StudentTMixture
    mean: Floats
    scale: Floats

    def median(self) -> Floats:
        """In the series' own unit, [n, horizon]."""
        found: Floats = self.mixture.median().numpy()
        return self.mean + self.scale * found

    def log_density(self, future: Floats) -> Floats:
        """ln of the density of *normalised* values, [n, horizon]; NaN where ``future`` is."""
        scaled = torch.from_numpy((future - self.mean) / self.scale)
        found: Floats = self.mixture.log_prob(scaled).double().numpy()
        return found


@torch.inference_mode()
def forecast(
    model: TSEncoder | TSDecoder,
    context: Floats,
    horizon: int,
    *,
    paths: int = 8,
    seed: int = 0,
) -> Forecast:
    """Distributions of the ``horizon`` points after contexts [n, t], NaN in gaps.

    A decoder goes on from ``paths`` sampled values of each patch that it said; the encoder needs
    none. A context shorter than a patch is filled up with gaps.

    Raises:
        SpecError: a horizon, or a number of paths, below 1; a context that is empty.
    """
    if horizon < 1 or paths < 1:
        raise SpecError(
            f"a horizon of {horizon} points by {paths} paths; expected 1 or more of both"
        )
    if context.ndim != 2 or not context.size:
        raise SpecError(f"contexts of shape {context.shape}; expected [series, points]")
    patch = model.config.patch
    mean, scale = instance_scale(context)
    patches, seen = cut_patches((context - mean) / scale, patch)
    num_forecast = -(-horizon // patch)
    if isinstance(model, TSEncoder):
        whole = model(patches, seen, num_forecast)
    else:
        whole = _rolled(model, patches, seen, num_forecast, paths, seed)
    flat = {
        name: getattr(whole, name).flatten(1, 2)[:, :horizon]
        for name in ("log_weight", "center", "scale", "df")
    }
    return Forecast(mixture=StudentTMixture(**flat), mean=mean, scale=scale)


def _rolled(
    model: TSDecoder, patches: Tensor, seen: Tensor, num_forecast: int, paths: int, seed: int
) -> StudentTMixture:
    """Each patch from those before it, the sampled ones included: [n, num_forecast, P, paths·S]."""
    generator = torch.Generator().manual_seed(seed)
    patches, seen = (part.repeat_interleave(paths, dim=0) for part in (patches, seen))
    said = []
    for index in range(num_forecast):
        look = _look(seen.any(-1), causal=True)
        if index:
            out = model.run(model.tokens(patches, seen), look)[:, -1:]
        else:  # paths have not parted yet
            first = slice(None, None, paths)
            out = model.run(model.tokens(patches[first], seen[first]), look[first])[:, -1:]
            out = out.repeat_interleave(paths, dim=0)
        mixture = model.mixture(out)
        said.append(mixture.pooled(paths))
        drawn = mixture.sample(generator)
        patches = torch.cat([patches, drawn], dim=1)
        seen = torch.cat([seen, torch.ones_like(drawn, dtype=torch.bool)], dim=1)
    parts = {
        name: torch.cat([getattr(one, name) for one in said], dim=1)
        for name in ("log_weight", "center", "scale", "df")
    }
    return StudentTMixture(**parts)
