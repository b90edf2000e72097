"""The number behind each draw: uniform, and independent along seeds and indices."""

import numpy as np
from scipy import stats

from plimsoll.serving.executors.torch.sampling.uniform import uniform

GRID = np.array([[uniform(seed, index) for index in range(400)] for seed in range(400)])


def test_uniform_over_all_and_along_each_axis() -> None:
    assert GRID.min() >= 0 and GRID.max() < 1
    assert stats.kstest(GRID.ravel(), "uniform").pvalue > 1e-3
    by_row = [stats.kstest(row, "uniform").pvalue for row in GRID]
    by_column = [stats.kstest(column, "uniform").pvalue for column in GRID.T]
    assert stats.kstest(by_row, "uniform").pvalue > 1e-3
    assert stats.kstest(by_column, "uniform").pvalue > 1e-3


def test_neighbors_are_independent() -> None:
    """Pairs along seeds, indices and both fill the unit square evenly."""
    pairs = {
        "seed": (GRID[:-1], GRID[1:]),
        "index": (GRID[:, :-1], GRID[:, 1:]),
        "both": (GRID[:-1, 1:], GRID[1:, :-1]),
    }
    for name, (a, b) in pairs.items():
        cells, _, _ = np.histogram2d(a.ravel(), b.ravel(), bins=16, range=[[0, 1], [0, 1]])
        assert stats.chisquare(cells.ravel()).pvalue > 1e-3, name
        assert stats.pearsonr(a.ravel(), b.ravel()).pvalue > 1e-3, name


def test_any_whole_number_is_a_seed() -> None:
    seeds = [-1, 0, 2**63, 2**64 - 2, 10**30]
    assert len({uniform(seed, 0) for seed in seeds}) == len(seeds)
    assert uniform(3, 4) == uniform(3, 4) == uniform(3 + 2**64, 4)
