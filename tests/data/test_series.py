"""Generated series: known entropies, domains apart, gaps; and folders of LOTSA."""

import ast
import builtins
import inspect

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import norm

from plimsoll.data import series_domains
from plimsoll.data.series import ar1, generate, lotsa_reader
from plimsoll.data.series_domains import OOD_DOMAINS, TRAIN_DOMAINS, normal_entropy
from plimsoll.spec.errors import SpecError, UnsupportedError

EVERY = (*TRAIN_DOMAINS, *OOD_DOMAINS)


def drawn(name, seed=0, num=400, length=120, leads=20):
    return generate((name,), seed, num=num, length=length, leads=leads)


def test_six_domains_to_train_on_and_two_apart():
    assert len(TRAIN_DOMAINS) == 6 and len(OOD_DOMAINS) == 2
    assert not set(TRAIN_DOMAINS) & set(OOD_DOMAINS)


def test_domains_out_of_distribution_share_no_generator_with_training():
    tree = ast.parse(inspect.getsource(series_domains))
    calls = {
        node.name: {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
    trained = {f.__name__ for f in TRAIN_DOMAINS.values()}
    for generator in OOD_DOMAINS.values():
        assert generator.__name__ not in trained
        assert not calls[generator.__name__] & trained


@pytest.mark.parametrize("name", EVERY)
def test_the_same_seed_gives_the_same_series_and_another_gives_others(name):
    first, again, other = drawn(name, 0), drawn(name, 0), drawn(name, 1)
    assert np.array_equal(first.values, again.values)
    assert not np.isclose(first.values, other.values).all(axis=1).any()
    assert np.isfinite(first.values).all() and np.isfinite(first.bound_nats).all()


def test_a_domain_does_not_change_with_its_company():
    alone = drawn("counts")
    both = generate(("seasonal", "counts"), 0, num=400, length=120, leads=20)
    mine = both.values[both.domain == 1]
    assert np.array_equal(np.sort(alone.values[:, 0]), np.sort(mine[:, 0]))


def test_sets_are_balanced_and_mixed():
    found = generate(tuple(TRAIN_DOMAINS), 0, num=50, length=60, leads=10)
    assert np.bincount(found.domain).tolist() == [50] * 6
    assert len(set(found.domain[:20].tolist())) > 3
    assert found.context.shape == (300, 50) and found.future.shape == (300, 10)
    assert np.array_equal(found.first(7).values, found.values[:7])


def test_gaps_are_missing_values_before_the_cut_only():
    found = generate(("seasonal",), 0, num=300, length=120, leads=20, gaps=0.5)
    holes = np.isnan(found.context)
    assert 0.4 < holes.any(axis=1).mean() < 0.6
    assert np.isfinite(found.future).all()
    assert np.isfinite(found.context).any(axis=1).all()


def test_autoregressive_bound_is_the_entropy_measured_over_many_futures():
    """The spread by lead against a Monte Carlo of AR(1) with known parameters."""
    found = ar1(0, num=40_000, length=30, leads=5, phi=0.7, std=2.0)
    start = found.context[:, -1:]
    error = found.future - start * 0.7 ** np.arange(1, 6)
    assert found.bound_nats[0] == pytest.approx(normal_entropy(error.std(axis=0)), abs=0.02)


def test_switching_bound_is_the_entropy_of_its_two_gaussians():
    share, apart = np.array([[0.8]]), np.array([[2.5]])
    added = float(series_domains._mixing(share, apart)[0, 0])
    x = np.linspace(-8, 11, 40_001)
    density = 0.8 * norm.pdf(x) + 0.2 * norm.pdf(x, 2.5)
    entropy = -(density * np.log(density)).sum() * (x[1] - x[0])
    assert added == pytest.approx(entropy - float(normal_entropy(1.0)), abs=1e-5)


def test_a_walk_that_is_known_reaches_its_bound():
    """The true law of a walk, given its drift and step, has the entropy that is said."""
    rng = np.random.default_rng(0)
    made = series_domains.OOD_DOMAINS["walk"](rng, 20_000, 40, 4)
    steps = np.diff(made.values, axis=1)
    std = steps.std(axis=1, ddof=1, keepdims=True)
    assert (made.bound_nats[:, :1] - normal_entropy(std)).mean() == pytest.approx(0.0, abs=0.02)
    assert (np.diff(made.bound_nats, axis=1) > 0).all()


def test_autoregressive_series_are_stationary_with_unit_variance():
    rng = np.random.default_rng(0)
    made = TRAIN_DOMAINS["autoregressive"](rng, 20_000, 30, 5)
    assert made.values.std(axis=0) == pytest.approx(np.ones(30), abs=0.03)
    assert (made.bound_nats <= float(normal_entropy(1.0)) + 1e-9).all()


def test_counts_are_mostly_none():
    rng = np.random.default_rng(0)
    made = TRAIN_DOMAINS["counts"](rng, 500, 100, 5)
    whole = np.round(made.values)
    assert 0.5 < (whole == 0).mean() < 0.9
    assert np.abs(made.values - whole).mean() < 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"domains": ("sesonal",)}, "no domain 'sesonal'.*Did you mean seasonal"),
        ({"domains": ("walk", "walk")}, "expected each once"),
        ({"domains": ()}, "expected each once"),
        ({"leads": 0}, "points both before and after the cut"),
        ({"leads": 60}, "points both before and after the cut"),
        ({"gaps": 1.5}, "a share of 1.5 with gaps"),
    ],
)
def test_what_cannot_be_generated_is_refused(change, words):
    given = {"domains": ("walk",), "num": 2, "length": 60, "leads": 10, **change}
    with pytest.raises(SpecError, match=words):
        generate(given.pop("domains"), 0, **given)


def test_ar1_must_be_stationary():
    with pytest.raises(SpecError, match="expected .phi. < 1"):
        ar1(0, num=2, length=10, leads=2, phi=1.0, std=1.0)


def lotsa(folder):
    """One file as data sets are saved (a stream), one as it may be too, one parquet."""
    table = pa.table({"item_id": ["a"], "freq": ["H"], "target": [[1.0, None, 3.0]]})
    with (
        pa.OSFile(str(folder / "0.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    many = pa.table({"item_id": ["b"], "target": [[[1.0, 2.0], [3.0, 4.0]]]})
    with (
        pa.OSFile(str(folder / "1.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, many.schema) as writer,
    ):
        writer.write_table(many)
    pq.write_table(table, folder / "2.parquet")


def test_a_folder_of_lotsa_is_read_with_its_gaps_and_variates(tmp_path):
    lotsa(tmp_path)
    found = list(lotsa_reader(tmp_path))
    assert [one.item_id for one in found] == ["a", "b/0", "b/1", "a"]
    assert [one.freq for one in found] == ["H", "", "", "H"]
    assert np.array_equal(found[0].values, [1.0, np.nan, 3.0], equal_nan=True)
    assert found[2].values.tolist() == [3.0, 4.0]


def test_without_pyarrow_it_is_said(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnsupportedError, match="need pyarrow.*pip install pyarrow"):
        lotsa_reader(tmp_path)


def test_folders_that_are_no_lotsa_are_refused(tmp_path):
    with pytest.raises(SpecError, match="no such folder"):
        lotsa_reader(tmp_path / "none")
    with pytest.raises(SpecError, match="holds no .arrow or .parquet file"):
        lotsa_reader(tmp_path)
    pq.write_table(pa.table({"values": [[1.0]]}), tmp_path / "x.parquet")
    with pytest.raises(SpecError, match="no column target; found values"):
        list(lotsa_reader(tmp_path))
    pq.write_table(pa.table({"target": [["one"]]}), tmp_path / "x.parquet")
    with pytest.raises(SpecError, match="target of 0 is not made of numbers"):
        list(lotsa_reader(tmp_path))
    (tmp_path / "x.parquet").write_text("no table")
    with pytest.raises(SpecError, match="x.parquet: cannot be read"):
        list(lotsa_reader(tmp_path))
