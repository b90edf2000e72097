"""Answers about laws from made points, made once: for tests of their pictures."""

import functools

import numpy as np

from plimsoll.api.laws_budget import allocate
from plimsoll.api.laws_fit import compare_laws, fit_law
from plimsoll.laws.forms import Chinchilla
from plimsoll.laws.table import LossTable

NAMED = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
FAR_LINE = 9


def table():
    """36 runs that scatter by 0.1 %, one of them 12 % off."""
    sizes, tokens = 2e7 * 3.0 ** np.arange(6), 1e9 * 3.0 ** np.arange(6)
    n, d = (a.ravel() for a in np.meshgrid(sizes, tokens, indexing="ij"))
    form = Chinchilla()
    noise = np.random.default_rng(0).normal(0, 1e-3, len(n))
    noise[FAR_LINE - 2] += 0.12
    x = {"params": n, "tokens": d}
    loss = np.exp(form.log_loss(form.coordinates_of(NAMED), x) + noise)
    return LossTable(name="runs.csv", columns=x, loss=loss, lines=tuple(range(2, len(n) + 2)))


@functools.cache
def fitted():
    return fit_law(table(), form="chinchilla")


@functools.cache
def compared():
    return compare_laws(table())


@functools.cache
def split():
    return allocate("chinchilla", 1e23, serve_tokens=1e12, on="64xH100-SXM")


def by_kind(answer):
    return {picture.kind: picture for picture in answer.pictures()}


@functools.cache
def pictures():
    """One of each kind, as verbs show them."""
    mine, budget = by_kind(fitted()), by_kind(split())
    return (budget["iso-loss"], budget["iso-flop"], mine["residuals"], mine["extrapolation"])
