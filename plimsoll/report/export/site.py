"""Where one process of a replica starts: its port, its hosts, and how to reach the first one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from plimsoll.report.export.layout import FIRST_PORT, Instance
from plimsoll.report.export.shell import Raw

__all__ = ["Site", "address", "of_instance", "script_needs"]

_VISIBLE_DEVICES = {
    "nvidia": "CUDA_VISIBLE_DEVICES",
    "amd": "CUDA_VISIBLE_DEVICES",
    "google": "TPU_VISIBLE_CHIPS",
    "huawei": "ASCEND_RT_VISIBLE_DEVICES",
    "intel": "HABANA_VISIBLE_MODULES",
}
"""What an engine reads to take some devices of a host: ``device_control_env_var`` of each of
vLLM's platforms; ROCm reads CUDA's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One process: ``host_rank`` of ``num_hosts``, with the address of the first in ``head``.

    ``seat`` spaces the ports of engines on one host. ``own_address`` is where other engines
    reach this one; "" where all of them are on one host.
    """

    port: int = FIRST_PORT
    seat: int = 0
    num_hosts: int = 1
    host_rank: str = "0"
    head: str = ""
    own_address: str = ""
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def meeting_point(self, port: int) -> str:
        """``head`` with a port, where the processes of a replica find each other."""
        if isinstance(self.head, Raw):
            return Raw(f"{self.head}:{port}")
        return f"{self.head}:{port}"


def address(host: int, num_hosts: int) -> str:
    """How a script reaches a host: loopback where there is one, else a variable it checks."""
    return "127.0.0.1" if num_hosts == 1 else Raw(f'"$HOST_{host}"')


def script_needs(num_hosts: int) -> tuple[str, ...]:
    """The variables a launch script of a deployment on several hosts needs."""
    return () if num_hosts == 1 else tuple(f"HOST_{h}" for h in range(num_hosts))


def of_instance(instance: Instance, host: int, num_hosts: int, vendor: str) -> Site:
    """The process of a placed instance on one of its hosts, bound to its devices.

    Devices of a vendor whose variable is not known are left to the engine.
    """
    variable = _VISIBLE_DEVICES.get(vendor.lower())
    devices = ",".join(str(d) for d in instance.devices)
    return Site(
        port=instance.port,
        seat=instance.seat,
        num_hosts=len(instance.hosts),
        host_rank=str(instance.hosts.index(host)),
        head=address(instance.hosts[0], num_hosts),
        own_address="" if num_hosts == 1 else address(host, num_hosts),
        env={} if variable is None else {variable: devices},
    )
