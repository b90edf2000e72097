"""Write docs/hardware.md: how hardware is said, and the bundled devices as a table.

python scripts/write_hardware.py
"""

from pathlib import Path

from plimsoll.spec.dtype import DType
from plimsoll.spec.fleet import bundled_devices
from plimsoll.spec.hardware import Device

PAGE = Path(__file__).resolve().parents[1] / "docs" / "hardware.md"
PEAKS = (DType.FP16, DType.BF16, DType.FP8, DType.NVFP4, DType.MXFP4)

INTRODUCTION = """# Hardware

This page is written by `scripts/write_hardware.py` from the files in `plimsoll/library/devices/`.

## Saying what you have

| Written | Means |
|---|---|
| `H100` | one device |
| `8xH100-SXM` | eight devices, in nodes of the device's usual size: here one node |
| `12xH100-SXM` | a node of eight and a node of four |
| `2x(8xH200-SXM)+16xL40S` | two nodes of eight H200, and sixteen L40S in nodes of eight |
| `4x(4xA100-80)` | parentheses give the node size: four nodes of four |
| `8x./mycard.yaml` | eight of a device described in a file |

Names ignore case and punctuation (`h100_sxm`, `A100-80G`, `rtx 4090`), and otherwise must match a
name or an alias exactly. A near miss is an error that lists its neighbors.

## A device that is not listed

A file of data-sheet values, each with its unit. Needed are name, memory, bandwidth, watts and one
peak; everything else that is left out is assumed, and every assumption is shown with the answer.

```yaml
name: mycard
family: ada               # whose kernels it resembles; without it, the average of all measured
memory: 48GB
bandwidth: 864GB/s
bf16: 181TFLOP/s          # dense
fp8_with_sparsity: 724TFLOP/s   # halved
nvlink: 56GB/s            # one direction; without it, devices talk over PCIe
pcie: 32GB/s              # one direction
network: 100Gb/s          # per device; without it, a replica stays within a node
devices_per_node: 8
cores: 142
l2: 96MB
watts: 300
idle: 30W
price: 1.2usd/h
```

## Bundled devices

Peaks are dense, in TFLOP/s. Links are per device and direction, in GB/s. Memory is what the driver
reports, where known. A dash: no such rate, or no public price.
"""

CLOSING = """
## Where the values come from

Links between devices of a PCIe card's node are its PCIe rate. Networks and host memory belong to
a typical server, not to the device; the files say which.
"""


def cell(value: float | None, scale: float, digits: int = 0) -> str:
    """A number for the table, or a dash."""
    return "–" if value is None else f"{value / scale:,.{digits}f}"


def row(device: Device) -> str:
    """One line of the table of devices."""
    price = device.price.usd_per_hour if device.price else None
    cells = [
        device.name,
        cell(device.memory_bytes, 2**30, 1),
        cell(device.memory_bytes_per_s, 1e9),
        *(cell(device.peak_flops_per_s.get(dtype), 1e12) for dtype in PEAKS),
        cell(device.scale_up.bytes_per_s if device.scale_up else None, 1e9),
        f"{device.devices_per_node:,}",
        cell(device.scale_out.bytes_per_s if device.scale_out else None, 1e9, 1),
        cell(device.power.peak_w, 1),
        cell(price, 1, 2),
    ]
    return "| " + " | ".join(cells) + " |"


def sources(device: Device) -> str:
    """One paragraph with the sources of a device's value groups."""
    lines = [f"**{device.name}**"]
    if device.aliases:
        lines.append(f"also {', '.join(f'`{alias}`' for alias in device.aliases)}.")
    lines += [f"{group}: {s.source} ({s.as_of})." for group, s in device.sources.items()]
    if device.price:
        lines.append(f"price: {device.price.source} ({device.price.as_of}).")
    lines += [f"Assumed: {assumption}" for assumption in device.assumptions]
    return " ".join([*lines, device.notes]).strip()


def page() -> str:
    """The whole page."""
    columns = [
        "Device",
        "GiB",
        "GB/s",
        *PEAKS,
        "node link",
        "in a node",
        "network",
        "W",
        "USD/h",
    ]
    table = ["| " + " | ".join(columns) + " |", "|---|" + "--:|" * (len(columns) - 1)]
    table += [row(device) for device in bundled_devices()]
    told = "\n\n".join(sources(device) for device in bundled_devices())
    return f"{INTRODUCTION}\n{chr(10).join(table)}\n{CLOSING}\n{told}\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{len(bundled_devices())} devices in {PAGE.name}")
