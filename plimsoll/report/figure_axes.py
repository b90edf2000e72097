"""Parts that every matplotlib figure shares: titled axes with a faint grid, a legend."""

import textwrap
from typing import Any

__all__ = ["axes_of", "legend"]

_TITLE_LETTERS = 72  # of a line of the usual width


def axes_of(figure: Any, picture: Any, x_label: str, y_label: str) -> Any:
    """Axes with labels; the figure takes the picture's title."""
    axes = figure.add_subplot()
    title = textwrap.fill(picture.title, _TITLE_LETTERS)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, color="#d0d4d9", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


def legend(axes: Any, fontsize: float = 8, **where: Any) -> None:
    """A legend, if anything drawn has a label."""
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(framealpha=0.85, edgecolor="none", fontsize=fontsize, **where)
