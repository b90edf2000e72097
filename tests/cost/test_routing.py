"""Skewed routing against draws of what the expert-layer measurements used."""

import numpy as np
import pytest

from plimsoll.cost.routing import expert_load


def drawn(
    generator: np.random.Generator, tokens: int, experts: int, top_k: int, groups: int, a: float
) -> tuple[float, float]:
    """Experts hit and pairs on the busiest device of one draw: sample, scale, round, fill up."""
    few = tokens * top_k <= experts
    low, high = (0.01, 2.0) if few else (1.0, 0.8 * tokens)
    u = generator.random(experts)
    x = ((high ** (1 - a) - low ** (1 - a)) * u + low ** (1 - a)) ** (1 / (1 - a))
    counts = np.minimum(np.round(x / x.sum() * tokens * top_k).astype(int), tokens)
    shares = counts.reshape(groups, experts // groups)
    step = 1 if shares.sum() < tokens * top_k else -1
    device = 0
    while shares.sum() != tokens * top_k:
        row = shares[device % groups]
        place = int(row.argmin() if step > 0 else row.argmax())
        if 0 <= row[place] + step <= tokens:
            row[place] += step
        device += 1
    busiest = shares[shares.sum(axis=1).argmax()]
    return float((busiest > 0).sum()), float(busiest.sum())


@pytest.mark.parametrize("exponent", [1.01, 1.2])
@pytest.mark.parametrize(("experts", "top_k"), [(128, 8), (256, 8), (8, 2)])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_skewed_load_matches_drawing(
    experts: int, top_k: int, groups: int, exponent: float
) -> None:
    generator = np.random.default_rng(0)
    for tokens in (16, 64, 1024):
        draws = [drawn(generator, tokens, experts, top_k, groups, exponent) for _ in range(10)]
        hit, pairs = np.mean(draws, axis=0)
        load = expert_load(
            np.asarray(float(tokens)),
            num_experts=experts,
            top_k=top_k,
            groups=groups,
            exponent=exponent,
        )
        assert float(load.pairs) == pytest.approx(pairs, rel=0.25)
        assert float(load.experts_hit) == pytest.approx(hit, rel=0.3)
        assert float(load.choices) == tokens * top_k
