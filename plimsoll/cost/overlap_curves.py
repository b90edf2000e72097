"""The speed curves that come with the package: how kernels of each lane share a device.

Source: library/overlap_curves.yaml.
"""

import functools
from importlib import resources

import yaml

from plimsoll.cost.overlap_profile import PROPORTIONAL, Curves, Lane, SpeedCurve

__all__ = ["CURVES_DEVICE", "overlap_curves"]

CURVES_DEVICE = "A100-SXM-80"
"""What they were measured on."""


@functools.cache
def overlap_curves() -> Curves:
    """One curve a lane; compute is proportional."""
    file = resources.files("plimsoll.library") / "overlap_curves.yaml"
    data = yaml.safe_load(file.read_text(encoding="utf-8"))

    def curve(lane: Lane) -> SpeedCurve:
        shares, speeds = (tuple(map(float, data[lane][key])) for key in ("shares", "speeds"))
        return SpeedCurve(lane=lane, shares=shares, speeds=speeds)

    return {"compute": PROPORTIONAL, "memory": curve("memory"), "network": curve("network")}
