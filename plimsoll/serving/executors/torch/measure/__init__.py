"""Measuring the machine at hand: what a hardware file's ``measured`` group is filled from."""

from plimsoll.serving.executors.torch.measure.machine import measure_device
from plimsoll.serving.executors.torch.measure.sizes import FULL, QUICK, THOROUGH, Sizes

__all__ = ["FULL", "QUICK", "THOROUGH", "Sizes", "measure_device"]
