"""SVG and PNG files: drawn for every picture, the same bytes each time, refused in words."""

import re

import pytest

from plimsoll.report.figures import write_figure
from plimsoll.report.law_pictures import (
    ExtrapolationPicture,
    IsoFlopPicture,
    IsoLossPicture,
    ResidualPicture,
)
from plimsoll.report.pictures import CdfPicture, ParetoPicture, RequestTimeline, TimeBreakdown
from plimsoll.spec.errors import SpecError
from tests import report_pictures as pictures

ALL = {p.kind: p for p in pictures.all_pictures()}
AXES = {
    "pareto": ("output tokens/s/user", "output tokens/s/GPU", "SLO: 40 or more", "dominated"),
    "cdf": ("TTFT (log scale)", "requests at or below (%)", "SLO 500 ms", "n = 500"),
    "load-curve": ("offered load (req/s)", "goodput (req/s)", "knee 10 req/s", "3 seeds"),
    "request-timeline": ("time since the run began (s)", "queue", "decode", "late"),
    "memory": ("memory of one GPU (GiB)", "limit 71.1 GiB", "capacity 79.0 GiB"),
    "roofline": ("FLOPs/byte", "TFLOP/s", "prefill", "decode", "gate_up"),
    "time-breakdown": ("share of the step (%)", "all-reduce (collective)", "hidden"),
    "iso-loss": ("size (parameters", "data (tokens", "compute-optimal", "fitted in here", "100B"),
    "iso-flop": ("size (parameters", "loss (nats", "1e23 FLOPs with serving", "least loss"),
    "residuals": ("training compute (FLOPs", "ln(measured / predicted)", "line 9", "1e20"),
    "extrapolation": ("loss (nats", "90 % interval", "held out, measured", "leaves the fit's box"),
}


@pytest.mark.parametrize("kind", list(ALL))
def test_an_svg_holds_title_units_and_must_haves_and_repeats_exactly(kind, tmp_path):
    write_figure(ALL[kind], tmp_path / "a.svg")
    write_figure(ALL[kind], tmp_path / "b.svg")
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert svg == (tmp_path / "b.svg").read_text(encoding="utf-8")
    words = re.sub(r"<[^>]+>", "", svg).replace("&lt;", "<")
    words = " ".join(words.split())  # long titles take two lines
    for wanted in (ALL[kind].title, *AXES[kind]):
        assert wanted in words, wanted
    assert list(tmp_path.glob(".*")) == []


def test_a_png_is_a_png(tmp_path):
    write_figure(ALL["pareto"], tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    "picture",
    [
        ParetoPicture(title="t", points=()),
        CdfPicture(title="t", metric="ttft", series=()),
        RequestTimeline(title="t", rows=(), num_requests=0, num_late=0),
        TimeBreakdown(title="t", bars=()),
        IsoLossPicture(
            title="t",
            unit="nats",
            params=(1, 9),
            tokens=(1, 9),
            box_params=(2, 3),
            box_tokens=(2, 3),
            contours=(),
        ),
        IsoFlopPicture(title="t", unit="nats", curves=(), box_params=(2, 3)),
        ResidualPicture(title="t", unit="nats", x_name="size", x_unit="", series=()),
        ExtrapolationPicture(
            title="t",
            unit="nats",
            x_name="size",
            x_unit="",
            line_name="",
            level=0.9,
            fitted=(),
            held_out=(),
            lines=(),
        ),
    ],  # fmt: skip
    ids=lambda p: p.kind,
)
def test_pictures_of_nothing_are_drawn_empty(picture, tmp_path):
    write_figure(picture, tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_other_endings_and_closed_folders_are_refused(tmp_path):
    with pytest.raises(SpecError, match=r"written as \.svg or \.png"):
        write_figure(ALL["memory"], tmp_path / "a.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="cannot be written"):
        write_figure(ALL["memory"], tmp_path / "file" / "a.svg")
