"""The speed curves that come with the package: how kernels of each lane share a device.

Source: library/overlap_curves.yaml.
"""

import functools
from importlib import resources

import yaml

from plimsoll.cost.overlap_profile import PROPORTIONAL, Curves, SpeedCurve

__all__ = ["CURVES_DEVICE", "overlap_curves"]

CURVES_DEVICE = "A100-SXM-80"
"""What they were measured on."""


@functools.cache
def overlap_curves() -> Curves:
    """One curve a lane; compute is proportional."""
    file = resources.files("plimsoll.library") / "overlap_curves.yaml"
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    found: dict[str, SpeedCurve] = {"compute": PROPORTIONAL}
    for lane in ("memory", "network"):
        shares, speeds = (tuple(map(float, data[lane][key])) for key in ("shares", "speeds"))
        found[lane] = SpeedCurve(lane=lane, shares=shares, speeds=speeds)  # type: ignore[arg-type]
    return found  # type: ignore[return-value]
