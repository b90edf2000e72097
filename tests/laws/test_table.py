"""Tables of runs: joining, repeats, rises, and what their headers say of units."""

import numpy as np
import pytest

from plimsoll.laws.plausible import check_counts, unit_of
from plimsoll.laws.rises import rises
from plimsoll.laws.table import LossTable, header_and_factor, joined
from plimsoll.spec.errors import SpecError


def table(name="a", loss=(3.0, 2.9, 2.8), unit="nats", **columns):
    found = {"params": [1e8, 1e8, 2e8], "tokens": [1e9, 2e9, 2e9], **columns}
    return LossTable(
        name=name,
        columns={key: np.array(values, dtype=float) for key, values in found.items()},
        loss=np.array(loss),
        unit=unit,
        lines=(2, 3, 4),
    )


def test_points_of_several_files_keep_their_places():
    both = joined([table("a"), table("b", loss=(3.0, 2.95, 2.8))])
    assert len(both) == 6 and both.name == "a and b"
    assert [both.place(i) for i in (0, 4)] == ["a line 2", "b line 3"]
    assert joined([table("a")]).place(0) == "line 2"
    mean = both.averaged()
    assert len(mean) == 3 and mean.loss[1] == pytest.approx(2.925)
    assert mean.files == ("a", "a", "a")
    assert "3 points at inputs seen before" in mean.notes[0]
    assert f"{100 * (2.95 / 2.9 - 1):.2f} % apart" in mean.notes[0]


def test_tables_that_cannot_be_joined():
    with pytest.raises(SpecError, match="b: loss in bits, in nats in a"):
        joined([table("a"), table("b", unit="bits")])
    with pytest.raises(SpecError, match="b: columns params, tokens, streams"):
        joined([table("a"), table("b", streams=[1, 1, 1])])


def test_rises_are_between_like_runs_only():
    assert rises(table()) == []
    (one,) = rises(table(loss=(3.0, 3.3, 2.8)))
    assert (one.fewer, one.more) == (0, 1)
    assert one.factor == pytest.approx(1.1) and not one.like_bits
    assert rises(table(loss=(3.0, 3.0 / np.log(2), 2.8)))[0].like_bits
    assert rises(table(loss=(3.0, 3.3, 2.8), streams=[1, 2, 1])) == []
    plain = LossTable(name="x", columns={"params": np.array([1e8, 2e8])}, loss=np.array([1.0, 2.0]))
    assert rises(plain) == []


@pytest.mark.parametrize(
    ("header", "unit"),
    [
        ("loss", "nats"),
        ("bpb", "bits"),
        ("val_loss_bits", "bits"),
        ("Bits per byte", "bits"),
        ("loss (nats)", "nats"),
        ("orbit_loss", "nats"),
    ],
)
def test_units_of_headers(header, unit):
    found, note = unit_of("runs.csv", header, None, lambda _: None, [2])
    assert found == unit
    assert bool(note) == (header not in ("loss", "orbit_loss"))


def test_a_column_of_units_must_agree_with_the_header():
    cells = {"unit": ["nats", "Nats "]}
    assert unit_of("runs.csv", "loss", None, cells.get, [2, 3])[0] == "nats"
    with pytest.raises(SpecError, match="the header bpb says bits"):
        unit_of("runs.csv", "bpb", None, cells.get, [2, 3])
    with pytest.raises(SpecError, match="--unit says bits"):
        unit_of("runs.csv", "loss", "bits", cells.get, [2, 3])


@pytest.mark.parametrize("factor", [1.0, 1e3])
def test_counts_of_small_models_are_counts(factor):
    """Tiny sweeps and wide ones pass; only what no run can have is refused."""
    columns = {"params": np.array([768, 2e4, 1.5e9]), "tokens": np.array([2e7, 2e8, 2e10])}
    scaled = {name: values * factor for name, values in columns.items()}
    assert check_counts("runs.csv", scaled, {"params": "N", "tokens": "D"}, (2, 3, 4)) is None


@pytest.mark.parametrize("text", ["D*x", "D*0", "D*-1e9"])
def test_a_factor_is_a_number_above_zero(text):
    assert header_and_factor("D_b*1e9") == ("D_b", 1e9)
    with pytest.raises(SpecError, match="is no factor"):
        header_and_factor(text)
