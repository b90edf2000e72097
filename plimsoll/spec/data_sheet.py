"""An unknown device from the dozen values a data sheet prints.

A short file gives quantities with units under everyday names (memory, bandwidth, bf16, pcie,
watts, ...); it becomes a full ``Device``. What is left out is filled with the values below,
and each filling is written into ``Device.assumptions``, so that every answer shows it.
``fp8_with_sparsity: 1466TFLOP/s`` is halved, because peaks here are dense.
Leaves out: anything that is not on a data sheet; kernel efficiency comes from calibration.
"""

from typing import Any

from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import SpecError, suggest
from plimsoll.spec.hardware import Device
from plimsoll.spec.io import from_data
from plimsoll.spec.units import parse_count, parse_quantity

__all__ = ["device_from_data_sheet", "is_data_sheet"]

_TEXT_KEYS = ("vendor", "family", "kind", "source", "as_of", "notes")
_LINK_KEYS = ("nvlink", "infinity_fabric", "scale_up", "network", "pcie")
_KEYS = (
    "name",
    "aliases",
    *_TEXT_KEYS,
    "memory",
    "bandwidth",
    "cores",
    "l2",
    *_LINK_KEYS,
    "devices_per_node",
    "ddr",
    "nvme",
    "watts",
    "idle",
    "price",
)
_PEAK_KEYS = tuple(dtype.value for dtype in DType)
_SPARSE = "_with_sparsity"

_ASSUMED_PCIE_BYTES_PER_S = 31.5e9
_ASSUMED_CORES = 128
_ASSUMED_L2_BYTES = 48e6
_ASSUMED_IDLE_FRACTION = 0.1
_ASSUMED_DEVICES_PER_NODE = 8
_LATENCY_S = {"pcie": 1e-5, "network": 5e-6}
_FAST_LINK_LATENCY_S = 3e-6


def is_data_sheet(data: Any) -> bool:
    """Whether parsed file content is the short form rather than a full ``Device``."""
    return isinstance(data, dict) and "memory_bytes" not in data and "format_version" not in data


def device_from_data_sheet(data: dict[str, Any], *, where: str) -> Device:
    """The device of a short file; ``where`` names the file in errors.

    Needed: name, memory, bandwidth, watts and one peak (bf16, fp16, fp8, int8, ...).

    Raises:
        SpecError: a needed or an unknown key, a value without its unit.
    """
    _check_keys(data, where)
    assumptions: list[str] = []
    peaks = _peaks(data, where)
    host_bytes_per_s = _rate(data, "pcie", where)
    if host_bytes_per_s is None:
        host_bytes_per_s = _ASSUMED_PCIE_BYTES_PER_S
        assumptions.append("host link: PCIe 4.0 x16, 31.5 GB/s a direction")
    host = _link("pcie", host_bytes_per_s)
    watts_w = _power(data, "watts", where)
    full: dict[str, Any] = {
        "name": data["name"],
        "vendor": "unknown",
        "family": "unknown",
        "memory_bytes": parse_quantity(str(data["memory"]), "bytes", where=f"{where}: memory"),
        "memory_bytes_per_s": parse_quantity(
            str(data["bandwidth"]), "bytes/s", where=f"{where}: bandwidth"
        ),
        "peak_flops_per_s": peaks,
        "host": host,
        "scale_up": _scale_up(data, where),
        "tiers": _tiers(data, host_bytes_per_s, where),
        "power": {"peak_w": watts_w, "idle_w": _ASSUMED_IDLE_FRACTION * watts_w},
        "num_cores": _ASSUMED_CORES,
        "l2_bytes": _ASSUMED_L2_BYTES,
        "devices_per_node": _ASSUMED_DEVICES_PER_NODE,
        "source": f"data sheet values given in {where}",
        "as_of": "not given",
    }
    full.update({key: data[key] for key in ("aliases", *_TEXT_KEYS) if key in data})
    full["as_of"] = str(full["as_of"])  # YAML reads a bare date as a date
    if full["scale_up"] is None:
        full["scale_up"] = host
        assumptions.append("devices of a node reach each other over the host link")
    if "network" in data:
        full["scale_out"] = _link("network", _rate(data, "network", where) or 0.0)
    else:
        assumptions.append("no network: a replica stays within one node")
    if "idle" in data:
        full["power"]["idle_w"] = _power(data, "idle", where)
    else:
        assumptions.append("idle power: 10 % of peak")
    for key, name, unit in (
        ("cores", "num_cores", "cores"),
        ("devices_per_node", "devices_per_node", "devices in a node"),
    ):
        if key in data:
            full[name] = parse_count(str(data[key]), where=f"{where}: {key}")
        else:
            assumptions.append(f"{full[name]} {unit}")
    if "l2" in data:
        full["l2_bytes"] = parse_quantity(str(data["l2"]), "bytes", where=f"{where}: l2")
    else:
        assumptions.append("last-level cache: 48 MB")
    if "family" not in data:
        assumptions.append("no family named: kernel efficiency as pooled over measured devices")
    if "price" in data:
        full["price"] = {
            "usd_per_hour": parse_quantity(str(data["price"]), "price", where=f"{where}: price"),
            "source": full["source"],
            "as_of": full["as_of"],
        }
    full["assumptions"] = assumptions
    return from_data(Device, full, where=where)


def _check_keys(data: dict[str, Any], where: str) -> None:
    known = (*_KEYS, *_PEAK_KEYS, *(key + _SPARSE for key in _PEAK_KEYS))
    for key in data:
        if key not in known:
            raise SpecError(
                f"{where}: unknown key {key!r} in a data-sheet file;{suggest(str(key), known)} "
                f"known are {', '.join(_KEYS)} and peaks by format ({', '.join(_PEAK_KEYS)})"
            )
    missing = [key for key in ("name", "memory", "bandwidth", "watts") if key not in data]
    if missing:
        raise SpecError(
            f"{where}: {', '.join(missing)} missing; a data-sheet file needs name, memory "
            "(48GB), bandwidth (864GB/s), watts (300) and one peak such as bf16 (181TFLOP/s)"
        )


def _peaks(data: dict[str, Any], where: str) -> dict[str, float]:
    peaks: dict[str, float] = {}
    for key in _PEAK_KEYS:
        sparse_key = key + _SPARSE
        if key in data and sparse_key in data:
            raise SpecError(f"{where}: both {key} and {sparse_key} are given; keep the dense one")
        if key in data:
            peaks[key] = parse_quantity(str(data[key]), "flops/s", where=f"{where}: {key}")
        elif sparse_key in data:
            value = parse_quantity(str(data[sparse_key]), "flops/s", where=f"{where}: {sparse_key}")
            peaks[key] = value / 2
    if not peaks:
        raise SpecError(f"{where}: no peak given; write for example bf16: 181TFLOP/s (dense)")
    return peaks


def _rate(data: dict[str, Any], key: str, where: str) -> float | None:
    if key not in data:
        return None
    return parse_quantity(str(data[key]), "bytes/s", where=f"{where}: {key}")


def _link(kind: str, bytes_per_s: float) -> dict[str, Any]:
    latency_s = _LATENCY_S.get(kind, _FAST_LINK_LATENCY_S)
    return {"kind": kind, "bytes_per_s": bytes_per_s, "latency_s": latency_s}


def _scale_up(data: dict[str, Any], where: str) -> dict[str, Any] | None:
    given = [key for key in ("nvlink", "infinity_fabric", "scale_up") if key in data]
    if len(given) > 1:
        raise SpecError(f"{where}: {' and '.join(given)} are both given; keep one")
    if not given:
        return None
    return _link(given[0].replace("_", "-"), _rate(data, given[0], where) or 0.0)


def _tiers(data: dict[str, Any], host_bytes_per_s: float, where: str) -> list[dict[str, Any]]:
    """Host memory at the host link's rate, drives at a PCIe 4.0 x4 drive's 7 GB/s."""
    tiers = []
    for kind, rate in (("ddr", host_bytes_per_s), ("nvme", min(7e9, host_bytes_per_s))):
        if kind in data:
            capacity = parse_quantity(str(data[kind]), "bytes", where=f"{where}: {kind}")
            tiers.append({"kind": kind, "capacity_bytes": capacity, "bytes_per_s": rate})
    return tiers


def _power(data: dict[str, Any], key: str, where: str) -> float:
    """Watts; the one quantity whose key names its unit, so a bare number is accepted."""
    value = data[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value}W"
    return parse_quantity(str(value), "power", where=f"{where}: {key}")
