"""One HTML file that holds a whole report and opens without a network.

The Plotly script is inlined once, the report's own data is embedded as JSON, and a content
security policy forbids every load from outside. Light and dark follow the reader's system and
a switch on the page. Left out: reading without JavaScript shows tables but no pictures.
"""

import html
import json
from pathlib import Path

from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.html_figures import plotly_figure
from plimsoll.report.pictures import Picture, RequestTimeline
from plimsoll.report.wording import error_text, number_text
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.io import plain, write_text

__all__ = ["report_html", "write_html"]

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5b6570; --paper: #ffffff;
  --card: #f4f6f8; --line: #d5dae0; --accent: #0072B2; --alert: #b34700; }
:root[data-theme="dark"] { --ink: #e6e9ec; --soft: #a3adb8; --paper: #14181c; --card: #1d2328;
  --line: #3a434c; --accent: #56B4E9; --alert: #ff9a52; }
@media (prefers-color-scheme: dark) { :root:not([data-theme="light"]) { --ink: #e6e9ec;
  --soft: #a3adb8; --paper: #14181c; --card: #1d2328; --line: #3a434c; --accent: #56B4E9;
  --alert: #ff9a52; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 20px 60px; max-width: 960px; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header { display: flex; gap: 16px; align-items: flex-start; justify-content: space-between; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 1.15rem; margin: 36px 0 8px; }
p { margin: 4px 0; } .soft, figcaption, .note { color: var(--soft); font-size: 0.9rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; margin: 10px 0;
  padding: 10px 14px; white-space: pre-wrap; font: 0.9rem/1.45 ui-monospace, "DejaVu Sans Mono",
  monospace; }
button { background: var(--card); color: var(--ink); border: 1px solid var(--line);
  border-radius: 6px; padding: 5px 12px; font: inherit; font-size: 0.85rem; cursor: pointer;
  white-space: nowrap; }
.numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(205px, 1fr)); gap: 10px;
  margin: 18px 0; }
.number { background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 10px 14px; }
.number b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.number .soft { display: block; line-height: 1.35; }
.origin { display: inline-block; border: 1px solid var(--line); border-radius: 9px; padding: 0 8px;
  font-size: 0.75rem; color: var(--soft); margin-top: 4px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 22px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td.right, th.right { text-align: right; white-space: nowrap; }
td:first-child { white-space: pre; } td.missed { color: var(--alert); font-weight: 700; }
tr.chosen td { font-weight: 700; }
figure { margin: 0; } .plot { width: 100%; }
footer { margin-top: 48px; }
@media print { button, label { display: none; } body { max-width: none; } }
"""

_SCRIPT = """
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  function themed(layout) {
    const style = getComputedStyle(root);
    const ink = style.getPropertyValue("--ink").trim();
    const line = style.getPropertyValue("--line").trim();
    const paper = style.getPropertyValue("--paper").trim();
    const made = Object.assign({}, layout, {
      paper_bgcolor: paper, plot_bgcolor: paper, autosize: true,
      font: { family: 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif', size: 13,
              color: ink },
      hoverlabel: { bgcolor: paper, bordercolor: line, font: { color: ink } },
    });
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis/.test(key)) {
        made[key] = Object.assign({}, layout[key],
          { gridcolor: line, linecolor: line, tickcolor: line, showline: true });
      }
    }
    made.annotations = (layout.annotations || []).map((a) =>
      Object.assign({}, a, { font: Object.assign({}, a.font, { color: ink }) }));
    return made;
  }
  const config = { responsive: true, displaylogo: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
  function draw() {
    figures.forEach((figure, k) => {
      Plotly.react("plot-" + k, figure.data, themed(figure.layout), config);
    });
    document.getElementById("theme").textContent = dark() ? "Light" : "Dark";
  }
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    draw();
  });
  document.querySelectorAll("input.late").forEach((box) => {
    box.addEventListener("change", () => {
      const figure = figures[Number(box.dataset.plot)];
      const wanted = box.checked ? "late" : "all";
      figure.data.forEach((trace) => { trace.visible = trace.meta === wanted; });
      draw();
    });
  });
  system.addEventListener("change", draw);
  draw();
})();
"""


def _text(value: str) -> str:
    return html.escape(value, quote=True)


def _json(data: object) -> str:
    """JSON that cannot end a script element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _number(item: KeyNumber) -> str:
    note = f'<span class="soft">{_text(item.note)}</span>' if item.note else ""
    source = ", ".join(filter(None, (item.number.origin.value, error_text(item.number))))
    return (
        f'<div class="number"><span class="soft">{_text(item.name)}</span>'
        f"<b>{_text(number_text(item.number, item.digits))}</b>{note}"
        f'<span class="origin">{_text(source)}</span></div>'
    )


def _table(table: Table) -> str:
    right = [
        k > 0 and all(row[k][:1].isdigit() or row[k][:1] in "-<>$+" for row in table.rows)
        for k in range(len(table.columns))
    ]
    sides = [' class="right"' if r else "" for r in right]
    head = "".join(f"<th{s}>{_text(c)}</th>" for s, c in zip(sides, table.columns, strict=True))
    lines = []
    for row in table.rows:
        cells = "".join(
            f'<td class="missed">{_text(cell)}</td>'
            if cell.startswith("MISSED")
            else f"<td{side}>{_text(cell)}</td>"
            for side, cell in zip(sides, row, strict=True)
        )
        chosen = ' class="chosen"' if row and row[0].startswith("*") else ""
        lines.append(f"<tr{chosen}>{cells}</tr>")
    notes = "".join(f'<p class="note">{_text(note)}</p>' for note in table.notes)
    body = (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        if table.rows
        else ""
    )
    return f"<section><h2>{_text(table.title)}</h2>{body}{notes}</section>"


def _figure(picture: Picture, k: int) -> str:
    origin = getattr(picture, "origin", None)
    notes = "; ".join([*picture.notes, *([origin.value] if origin is not None else [])])
    control = ""
    if isinstance(picture, RequestTimeline):
        control = (
            f'<label class="soft"><input type="checkbox" class="late" data-plot="{k}"> '
            "late requests only</label>"
        )
    return (
        f"<figure><h2>{_text(picture.title)}</h2>{control}"
        f'<div class="plot" id="plot-{k}" data-kind="{picture.kind}" role="img" '
        f'aria-label="{_text(picture.title)}"></div>'
        f"<figcaption>{_text(notes)}</figcaption></figure>"
    )


def report_html(report: Report) -> str:
    """The whole page.

    Raises:
        UnsupportedError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UnsupportedError(
            "HTML reports need plotly, which is not installed; pip install 'plimsoll[report]'"
        ) from None
    figures = [plotly_figure(picture) for picture in report.pictures]
    parts = [
        '<header><div><h1>', _text(report.title), "</h1>",
        f'<p class="soft">{_text(report.subtitle)}</p></div>',
        '<button id="theme" type="button">Dark</button></header>',
    ]  # fmt: skip
    if report.command:
        parts.append(f"<pre>{_text(report.command)}</pre>")
    if report.key_numbers:
        parts.append('<div class="numbers">')
        parts += [_number(item) for item in report.key_numbers]
        parts.append("</div>")
    parts += [_table(table) for table in report.tables]
    parts += [_figure(picture, k) for k, picture in enumerate(report.pictures)]
    if report.assumptions:
        lines = "".join(f"<li>{_text(line)}</li>" for line in report.assumptions)
        parts.append(f"<section><h2>Assumed</h2><ul>{lines}</ul></section>")
    parts += [f'<p class="note">{_text(note)}</p>' for note in report.notes]
    if report.start_command:
        parts.append(
            f"<section><h2>Start it</h2><pre>{_text(report.start_command)}</pre></section>"
        )
    if report.next_command:
        parts.append(f"<section><h2>Next</h2><pre>{_text(report.next_command)}</pre></section>")
    parts.append("<noscript><p>The pictures need JavaScript.</p></noscript>")
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{_text(report.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n",
            *parts,
            f'\n<script type="application/json" id="report">{_json(plain(report))}</script>\n',
            f'<script type="application/json" id="figures">{_json(figures)}</script>\n',
            f"<script>{get_plotlyjs()}</script>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n",
        ]
    )


def write_html(report: Report, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(report_html(report), path)
