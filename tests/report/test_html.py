"""The HTML report: one file, nothing loaded from outside, drawn by a real browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from plimsoll.report.document import Report
from plimsoll.report.html import report_html, write_html
from plimsoll.report.html_figures import plotly_figure
from plimsoll.spec.errors import SpecError
from plimsoll.spec.io import from_data
from tests import report_pictures as pictures

ALL = {p.kind: p for p in pictures.all_pictures()}
BROWSER_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=8000",
    "--dump-dom",
)
LOADS = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}


class Page(HTMLParser):
    """Attributes that load something, scripts by id, and the text that a reader sees."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.scripts, self.words = [], {}, []
        self.inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.loads += [(tag, k, v) for k, v in attrs if k in LOADS]
        if tag in ("script", "style"):
            self.inside = dict(attrs).get("id", f"{tag}-{len(self.scripts)}")

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.inside = None

    def handle_data(self, data):
        if self.inside is None:
            self.words.append(data)
        else:
            self.scripts[self.inside] = self.scripts.get(self.inside, "") + data


@pytest.fixture(scope="module")
def text():
    return report_html(pictures.full_report())


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_nothing_is_loaded_and_the_policy_forbids_it(text, page):
    assert page.loads == []
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text).group(1)
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    own = text.replace(max(page.scripts.values(), key=len), "")  # all but the Plotly script
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:)?//", own)
    assert not re.findall(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", own)


def test_the_embedded_data_is_the_report(page):
    data = json.loads(page.scripts["report"])
    assert from_data(Report, data, where="report") == pictures.full_report()


def test_a_reader_sees_every_number_with_its_origin(page):
    words = "\n".join(page.words)
    report = pictures.full_report()
    assert words.count("modeled, ± 12 %") == 8 and "derived" in words
    for wanted in (
        report.title, report.subtitle, report.command, report.next_command, *report.assumptions,
        *(p.title for p in report.pictures), *(t.title for t in report.tables),
        "* 2 x TP 4", "late requests only",
    ):  # fmt: skip
        assert wanted in words, wanted


def test_text_of_others_cannot_become_markup():
    evil = '</script><script>alert(1)</script><img src="http://x/y">'
    report = Report(
        title=evil, subtitle=evil, command=evil, assumptions=(evil,), notes=(evil,),
        next_command=evil,
    )  # fmt: skip
    page = Page(report_html(report))
    assert page.loads == []
    assert len(page.scripts) == 5  # style, report, figures, plotly, page
    assert json.loads(page.scripts["report"])["title"] == evil


@pytest.mark.parametrize("kind", list(ALL))
def test_every_figure_is_valid_plotly(kind):
    from plotly.graph_objects import Figure

    made = plotly_figure(ALL[kind])
    Figure(made)  # raises on an unknown property or value
    json.dumps(made, allow_nan=False)
    names = [a for a in made["layout"] if a.startswith(("xaxis", "yaxis"))]
    titles = [made["layout"][a]["title"]["text"] for a in names]
    assert any(re.search(r"[(/%]", t) for t in titles), titles


def test_the_pareto_tooltip_counts_gpus_and_the_slo_region_is_shaded():
    made = plotly_figure(ALL["pareto"])
    assert all(c[1] == 8 for trace in made["data"] for c in trace["customdata"])
    assert "GPUs" in made["data"][0]["hovertemplate"]
    region = next(s for s in made["layout"]["shapes"] if s["type"] == "rect")
    assert region["x0"] == 40.0 and region["x1"] > 120
    shown = {trace["name"].split(":")[0] for trace in made["data"]}
    assert shown == {"dominated", "TP 1 x 8", "TP 2 x 4", "TP 4 x 2", "TP 8 x 1", "chosen"}
    drawn = sum(len(t["x"]) for t in made["data"])
    assert drawn == len(ALL["pareto"].points) + 1  # the chosen point is on its family's line too


def test_a_run_of_a_law_says_its_line_its_inputs_and_both_losses():
    traces = plotly_figure(ALL["residuals"])["data"]
    words = {text for trace in traces for text in trace["text"]}
    (far,) = (text for text in words if text.startswith("<b>line 9</b>"))
    run = next(r for s in ALL["residuals"].series for r in s.runs if r.line == 9)
    for wanted in (
        "params 60M", "tokens 3B", "1.08e18 FLOPs", f"measured {run.loss:.4g}",
        f"predicted {run.predicted:.4g}", f"{run.loss / run.predicted - 1:+.2%}",
    ):  # fmt: skip
        assert wanted in far, (wanted, far)


def test_curves_with_a_serving_load_are_dashed_in_the_color_of_their_budget():
    traces = {t["name"]: t["line"] for t in plotly_figure(ALL["iso-flop"])["data"] if "line" in t}
    plain, serving = traces["1e23 FLOPs"], traces["1e23 FLOPs with serving"]
    assert plain["color"] == serving["color"] != traces["1e22 FLOPs"]["color"]
    assert (plain["dash"], serving["dash"]) == ("solid", "dash")


def test_the_late_filter_has_its_own_traces():
    made = plotly_figure(ALL["request-timeline"])
    groups = {g: [t for t in made["data"] if t["meta"] == g] for g in ("all", "late")}
    late = {str(r.request_id) for r in ALL["request-timeline"].rows if r.late}
    assert late
    assert {y for t in groups["late"] for y in t["y"]} == late
    assert {y for t in groups["all"] for y in t["y"]} > late
    assert all(t["visible"] for t in groups["all"])
    assert not any(t["visible"] for t in groups["late"])


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="cannot be written"):
        write_html(pictures.full_report(), tmp_path / "file" / "r.html")


def test_a_browser_draws_every_picture_without_a_network(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        print("SKIPPED: no chromium on this machine, the page is not rendered")
        pytest.skip("no chromium")
    path = tmp_path / "report.html"
    write_html(pictures.full_report(), path)
    profile = tmp_path / "profile"
    profile.mkdir()
    result = subprocess.run(
        [browser, *BROWSER_FLAGS, f"--user-data-dir={profile}", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    plots = re.findall(r'data-kind="([a-z-]+)"', result.stdout)
    assert plots == [p.kind for p in pictures.all_pictures()]
    body = re.sub(r"<script.*?</script>", "", result.stdout, flags=re.DOTALL)
    for part in body.split('data-kind="')[1:]:
        assert 'class="main-svg"' in part.split("</figure>")[0], part[:60]
    assert "Content Security Policy" not in result.stderr
