"""Terminal output: 80 columns, plain through a pipe, and every must-have in the text."""

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from plimsoll.report.document import Table
from plimsoll.report.pictures import (
    CdfPicture,
    CdfSeries,
    LoadCurvePicture,
    LoadPoint,
    MemoryPart,
    ParetoPicture,
    ParetoPoint,
    RequestTimeline,
    RooflinePicture,
    Spread,
    TimeBreakdown,
)
from plimsoll.report.plots_terminal import picture_text
from plimsoll.report.terminal import (
    make_console,
    memory_bars,
    plan_lines,
    print_report,
    table_lines,
)
from plimsoll.spec.plan import Parallel, Pool, ServingPlan
from tests import report_pictures as pictures

ANSI = re.compile(r"\x1b\[[0-9;]*m")
ALL = {p.kind: p for p in pictures.all_pictures()}


def printed(renderable):
    out = io.StringIO()
    make_console(out).print(renderable)
    return out.getvalue()


def test_a_whole_report_fits_80_columns_and_has_no_escape_codes_in_a_pipe():
    out = io.StringIO()
    print_report(pictures.full_report(), make_console(out))
    text = out.getvalue()
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    for wanted in (
        "carries 15.6 req/s",
        "Goodput",
        "modeled",
        "derived",
        "± 12 %",
        "* 2 x TP 4",
        "P99 TTFT <= 500 ms",
        "0 % prefix hits",
        "next:  plimsoll export vllm plan.yaml",
    ):
        assert wanted in text


def test_a_narrow_terminal_gets_narrow_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    out = io.StringIO()
    console = Console(file=out, width=60, highlight=False)
    print_report(pictures.full_report(), console)
    assert max(len(line) for line in out.getvalue().splitlines()) <= 60


@pytest.mark.parametrize(("no_color", "colored"), [("1", False), ("", True)])
def test_no_color_is_respected_on_a_terminal(monkeypatch, no_color, colored):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    out = io.StringIO()
    print_report(pictures.full_report(), make_console(out))
    codes = {c for found in ANSI.findall(out.getvalue()) for c in found[2:-1].split(";")}
    assert bool(codes & {str(c) for c in (*range(30, 38), 38, *range(90, 98))}) is colored


@pytest.mark.parametrize("kind", list(ALL))
@pytest.mark.parametrize("width", [40, 60, 78])
def test_every_picture_fits_its_width(kind, width):
    text = picture_text(ALL[kind], width=width)
    assert text.startswith(ALL[kind].title)
    body = text.splitlines()[1:]  # the title wraps where it is printed
    assert max(len(line) for line in body) <= width
    assert "\x1b" not in text
    colored = picture_text(ALL[kind], width=width, color=True)
    if kind != "memory":
        assert ANSI.search(colored)
    assert [line.rstrip() for line in ANSI.sub("", colored).splitlines()] == text.splitlines()


def test_the_must_haves_of_each_picture_are_in_the_text():
    wanted = {
        "pareto": (
            "output tokens/s/user", "output tokens/s/GPU", "★ chosen: TP 8 x 1, batch 256, 8 GPUs",
            "mean TPOT within its bound right of 40", "· dominated", "o TP 1 x 8",
        ),
        "cdf": ("n = 500", "62.2 % within", "SLO 500 ms", "50 ms"),
        "load-curve": ("knee at 10 req/s", "3 seeds", "P99 TTFT", "goodput, req/s", "SLO 2 s"),
        "request-timeline": ("queue", "prefill", "decode", "preempted", "late", "of 500 requests"),
        "memory": ("GiB", "limit"),
        "roofline": ("FLOPs/byte", "TFLOP/s", "bound by memory", "bound by compute", "bf16"),
        "time-breakdown": ("all-reduce", "20.0 %", "hidden", "bound"),
        "iso-loss": ("lines: loss ", "+ compute-optimal", "★ best for this budget: 11.6B on 536B"),
        "iso-flop": ("1e23 FLOPs with serving", "★ least loss", "sizes fitted: 16B", "loss (nats)"),
        "residuals": ("★ far off: line 9", "training compute, FLOPs", "1e20"),
        "extrapolation": ("o fitted", "★ held out, measured", "leaves the fit's box"),
    }  # fmt: skip
    for kind, texts in wanted.items():
        drawn = picture_text(ALL[kind])
        for text in texts:
            assert text in drawn, (kind, text)


def test_a_terminal_draws_only_as_many_pictures_as_it_is_told():
    report = pictures.full_report()
    first, second = (picture.title for picture in report.pictures[:2])
    for number, shown in ((1, (True, False)), (0, (False, False))):
        out = io.StringIO()
        print_report(replace(report, num_on_terminal=number), make_console(out))
        text = " ".join(out.getvalue().split())
        assert (first in text, second in text) == shown


def test_memory_says_over_by_how_much_in_words():
    fits = pictures.memory()
    assert "2.2 GiB to spare" in printed(memory_bars(fits))
    more = MemoryPart(name="more", size_bytes=5 * 2.0**30)
    over = replace(fits, parts=(*fits.parts, more))
    text = printed(memory_bars(over))
    assert "OVER by 2.8 GiB" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_bars_of_memory_are_as_long_as_their_share():
    text = printed(memory_bars(pictures.memory()))
    bars = {line.split("  ")[0]: line.count("█") for line in text.splitlines() if "█" in line}
    total = sum(bars.values())
    assert bars["weights"] / total == pytest.approx(32.9 / 68.9, abs=0.04)
    assert bars["KV cache"] / total == pytest.approx(32.2 / 68.9, abs=0.04)


def test_a_plan_names_each_decision():
    plan = ServingPlan(
        model="deepseek-v3",
        fleet="16xH200-SXM",
        pools=(
            Pool(role="prefill", device="H200-SXM", parallel=Parallel(tp=8)),
            Pool(role="decode", device="H200-SXM", parallel=Parallel(attention_dp=8, ep=8)),
        ),
        kv_dtype="fp8",
        max_model_len=32768,
    )
    text = printed(plan_lines(plan))
    for wanted in (
        "deepseek-v3 on 16xH200-SXM", "prefill  1 x (TP 8): 8 of H200-SXM",
        "attention DP 8, EP 8", "chunked-prefill, 2,048 tokens a step", "router", "KV cache fp8",
        "32,768 tokens at most",
    ):  # fmt: skip
        assert wanted in text


def test_markup_in_data_is_shown_as_it_is():
    table = Table(title="[bold]x[/]", columns=("[red]a",), rows=(("[link=file:x]b[/link]",),))
    text = printed(table_lines(table))
    assert "[bold]x[/]" in text and "[link=file:x]b[/link]" in text


POSITIVE = st.floats(1e-6, 1e6)


@settings(max_examples=40)
@given(
    points=st.lists(st.tuples(POSITIVE, POSITIVE, st.booleans()), max_size=12),
    limit=st.none() | POSITIVE,
)
def test_any_pareto_can_be_drawn(points, limit):
    picture = ParetoPicture(
        title="t",
        points=tuple(
            ParetoPoint(
                tokens_per_s_per_user=x,
                tokens_per_s_per_gpu=y,
                num_gpus=1,
                family=f"family {k % 9} " + "long " * k,
                label="p",
                frontier=f,
                meets_slo=True,
                chosen=k == 3,
            )
            for k, (x, y, f) in enumerate(points)
        ),
        min_tokens_per_s_per_user=limit,
    )
    assert max(len(line) for line in picture_text(picture).splitlines()) <= 78


@settings(max_examples=40)
@given(
    values=st.lists(st.floats(0, 1e6), max_size=12, unique=True),
    bound_s=st.none() | POSITIVE,
)
def test_any_cdf_can_be_drawn(values, bound_s):
    values = sorted(values)
    n = len(values)
    series = CdfSeries(
        name="run",
        values_s=tuple(values),
        fractions=tuple((k + 1) / n for k in range(n)),
        num_samples=n,
    )
    picture = CdfPicture(title="t", metric="itl", series=(series,), bound_s=bound_s)
    assert max(len(line) for line in picture_text(picture).splitlines()) <= 78


def test_pictures_of_nothing_say_so():
    point = LoadPoint(
        request_rate_per_s=1.0,
        goodput_requests_per_s=Spread(mean=0.0, low=0.0, high=0.0),
        latency_s=None,
    )
    empty = (
        CdfPicture(title="t", metric="ttft", series=()),
        LoadCurvePicture(title="t", latency_name="P99 TTFT", points=(), num_seeds=1),
        LoadCurvePicture(title="t", latency_name="P99 TTFT", points=(point,), num_seeds=1),
        ParetoPicture(title="t", points=()),
        RequestTimeline(title="t", rows=(), num_requests=0, num_late=0),
        RooflinePicture(title="t", device="x", memory_bytes_per_s=1e12, peaks=(), dots=()),
        TimeBreakdown(title="t", bars=()),
    )
    for picture in empty:
        assert picture_text(picture).startswith("t")
