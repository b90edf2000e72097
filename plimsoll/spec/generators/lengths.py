"""How long prompts and outputs are: distributions as plain data, drawn jointly.

Every distribution is drawn through its quantile function, so that prompt and output can be tied
by a rank (Spearman) correlation with a Gaussian copula, and so that a sample can be stratified:
n requests then hold each 1/n of the distribution once, in random order, and repeat the table's
mean and percentiles whatever the seed. Truncation keeps the shape inside the limits, as redrawing
would; nothing piles up at a limit.
Left out: dependence between successive requests.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from plimsoll.spec.errors import SpecError
from plimsoll.spec.generators.streams import stream
from plimsoll.spec.io import PLAIN

__all__ = [
    "ConstantLength",
    "Length",
    "Lengths",
    "Level",
    "LognormalLength",
    "MixtureLength",
    "QuantileLength",
    "UniformLength",
    "ZipfLength",
    "check_quantiles",
    "draw_lengths",
    "interpolate_quantiles",
    "stratified_uniform",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Tokens = Annotated[int, Field(ge=1, le=10**9)]
Level = Annotated[float, Field(ge=0, le=1)]

_LARGEST = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantLength:
    """Always ``tokens``."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["constant"] = "constant"
    tokens: Tokens

    def at(self, u: Floats) -> Floats:
        """The quantile function."""
        return np.full(len(u), float(self.tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformLength:
    """Even between ``low`` and ``high``, both included."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["uniform"] = "uniform"
    low: Tokens
    high: Tokens

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise SpecError(f"uniform length: low = {self.low} is above high = {self.high}")

    def at(self, u: Floats) -> Floats:
        """The quantile function."""
        return np.asarray(np.floor(self.low + u * (self.high - self.low + 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LognormalLength:
    """``median * exp(sigma * z)`` for a standard normal z, kept between ``low`` and ``high``."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["lognormal"] = "lognormal"
    median: Annotated[float, Field(gt=0, le=_LARGEST)]
    sigma: Annotated[float, Field(gt=0, le=10)]
    low: Tokens = 1
    high: Tokens = _LARGEST

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise SpecError(f"lognormal length: low = {self.low} is not below high = {self.high}")

    def share_below(self, tokens: Floats) -> Floats:
        """The distribution function without the limits."""
        from scipy.special import ndtr

        return np.asarray(ndtr(np.log(tokens / self.median) / self.sigma))

    def at(self, u: Floats) -> Floats:
        """The quantile function."""
        from scipy.special import ndtri

        edges = self.share_below(np.array([self.low, self.high], dtype=np.float64))
        z = ndtri(edges[0] + u * (edges[1] - edges[0]))
        tokens = self.median * np.exp(self.sigma * z)
        return np.asarray(np.clip(tokens, self.low, self.high))


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureLength:
    """Several lognormal modes with weights, such as short refusals beside full answers."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["mixture"] = "mixture"
    weights: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    parts: Annotated[tuple[LognormalLength, ...], Field(min_length=1)]

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.parts):
            raise SpecError(
                f"mixture length: {len(self.weights)} weights for {len(self.parts)} parts"
            )

    def at(self, u: Floats) -> Floats:
        """The quantile function, from a table of the distribution function."""
        tail = np.array([1e-7, 1.0 - 1e-7])
        ends = np.concatenate([part.at(tail) for part in self.parts])
        grid = np.geomspace(max(ends.min(), 1e-3), max(ends.max(), 2e-3), 4096)
        share = np.zeros(len(grid))
        for weight, part in zip(self.weights, self.parts, strict=True):
            low, high = part.share_below(np.array([part.low, part.high], dtype=np.float64))
            inside = (part.share_below(grid) - low) / (high - low)
            share += weight / sum(self.weights) * np.clip(inside, 0, 1)
        return np.asarray(np.interp(u, share, grid))


@dataclass(frozen=True, slots=True, kw_only=True)
class ZipfLength:
    """P(k) proportional to ``k ** -exponent`` for k from ``low`` to ``high``."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["zipf"] = "zipf"
    exponent: Annotated[float, Field(gt=0, le=20)]
    low: Tokens = 1
    high: Annotated[int, Field(ge=1, le=4 * 10**6)]

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise SpecError(f"zipf length: low = {self.low} is above high = {self.high}")

    def at(self, u: Floats) -> Floats:
        """The quantile function."""
        sizes = np.arange(self.low, self.high + 1, dtype=np.float64)
        share = np.cumsum(sizes**-self.exponent)
        found = np.searchsorted(share, u * share[-1], side="right")
        return np.asarray(sizes[np.minimum(found, len(sizes) - 1)])


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileLength:
    """A table of quantiles, straight lines between: ``tokens[i]`` at share ``levels[i]``."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["quantiles"] = "quantiles"
    levels: Annotated[tuple[Level, ...], Field(min_length=2)]
    tokens: Annotated[tuple[Annotated[float, Field(ge=1, le=_LARGEST)], ...], Field(min_length=2)]

    def __post_init__(self) -> None:
        check_quantiles(self.levels, self.tokens, what="length")

    def at(self, u: Floats) -> Floats:
        """The quantile function."""
        return interpolate_quantiles(self.levels, self.tokens, u)


Length = Annotated[
    ConstantLength | UniformLength | LognormalLength | MixtureLength | ZipfLength | QuantileLength,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Prompt and output lengths with their rank correlation; ``stratified`` as in the header."""

    __pydantic_config__: ClassVar = PLAIN
    prompt: Length
    output: Length
    rank_correlation: Annotated[float, Field(ge=-0.99, le=0.99)] = 0.0
    stratified: bool = False
    source: str = ""
    as_of: str = ""


def check_quantiles(levels: tuple[float, ...], values: tuple[float, ...], *, what: str) -> None:
    """Refuse a table whose levels do not run from 0 to 1 or whose values fall."""
    if len(levels) != len(values):
        raise SpecError(f"{what} quantiles: {len(levels)} levels for {len(values)} values")
    if levels[0] != 0 or levels[-1] != 1 or np.any(np.diff(levels) <= 0):
        raise SpecError(f"{what} quantiles: levels must rise from 0 to 1")
    if np.any(np.diff(values) < 0):
        raise SpecError(f"{what} quantiles: values must not fall")


def interpolate_quantiles(
    levels: tuple[float, ...], values: tuple[float, ...], u: Floats
) -> Floats:
    """The quantile function of a table."""
    return np.asarray(np.interp(u, levels, values))


def _even_ranks(z: Floats, seed: int, purpose: str) -> Floats:
    """Each 1/n of (0, 1) once, in the order of ``z``."""
    u = np.empty(len(z))
    u[np.argsort(z, kind="stable")] = np.arange(len(z))
    return np.asarray((u + stream(seed, f"{purpose} inside stratum").random(len(z))) / len(z))


def stratified_uniform(n: int, seed: int, purpose: str) -> Floats:
    """``n`` numbers in (0, 1), one in each 1/n, in random order."""
    return _even_ranks(stream(seed, purpose).random(n), seed, purpose)


def draw_lengths(lengths: Lengths, n: int, *, seed: int) -> tuple[Ints, Ints]:
    """Prompt and output tokens of ``n`` requests; depends on the seed and ``n`` only."""
    prompts, outputs = stream(seed, "prompt lengths"), stream(seed, "output lengths")
    if lengths.rank_correlation:
        # Spearman's rho to the correlation of the normals behind the copula.
        r = 2 * np.sin(np.pi * lengths.rank_correlation / 6)
        z_prompt = prompts.standard_normal(n)
        z_output = r * z_prompt + np.sqrt(1 - r * r) * outputs.standard_normal(n)
        if not lengths.stratified:
            from scipy.special import ndtr

            u_prompt, u_output = ndtr(z_prompt), ndtr(z_output)
    else:
        z_prompt = u_prompt = prompts.random(n)
        z_output = u_output = outputs.random(n)
    if lengths.stratified:
        u_prompt = _even_ranks(z_prompt, seed, "prompt lengths")
        u_output = _even_ranks(z_output, seed, "output lengths")
    return _whole(lengths.prompt.at(u_prompt)), _whole(lengths.output.at(u_output))


def _whole(tokens: Floats) -> Ints:
    return np.maximum(np.rint(tokens), 1).astype(np.int64)
