"""Tables of pools and of runs."""

import pytest

from plimsoll.laws.pool_table import read_pool_runs, read_pools
from plimsoll.laws.quality import RepeatUtility, best_pool
from plimsoll.spec.errors import SpecError

POOLS = "pool,samples,b,tau\ntop,12800000,-0.16,6.73\nnext,12800000,-0.125,8.55\n"
RUNS = "pool,samples,seen,error\nx,100,50,0.5\ny,200,100,0.6\nx,100,100,0.4\n"


def test_pools_are_read_and_chosen_from(tmp_path):
    path = tmp_path / "pools.csv"
    path.write_text(POOLS)
    law = RepeatUtility(a=0.025, d=0.1, normaliser=1e5)
    kept = [len(best_pool(law, read_pools(path), n).pools) for n in (32e6, 640e6)]
    assert kept == [1, 2]


def test_runs_are_gathered_by_pool(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(RUNS)
    x, y = read_pool_runs(path)
    assert (x.name, x.samples, x.seen.tolist(), x.error.tolist()) == (
        "x",
        100,
        [50, 100],
        [0.5, 0.4],
    )
    assert (y.name, y.samples) == ("y", 200)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_pools, POOLS.replace("-0.16", "0.16"), "line 2: pool top: b is 0.16"),
        (read_pools, POOLS.replace("next", "top"), "line 3: pool top is there twice"),
        (read_pools, POOLS.replace("6.73", "long"), "line 2: tau is 'long'; expected a number"),
        (read_pools, POOLS.replace("tau", "half"), "tau missing"),
        (read_pool_runs, RUNS.replace("x,100,100", "x,90,100"), "line 4: pool x has 90 samples"),
        (read_pool_runs, POOLS, "seen, error missing"),
    ],
)
def test_bad_tables_are_one_sentence(tmp_path, read, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        read(path)
