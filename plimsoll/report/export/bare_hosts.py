"""Start scripts for machines without an orchestrator: one a host, engines side by side."""

from collections.abc import Mapping

from plimsoll.report.export import site as sites
from plimsoll.report.export.contract import ExportedFile, refuse
from plimsoll.report.export.header import comment
from plimsoll.report.export.layout import Instance
from plimsoll.report.export.shell import Launch, Raw, script
from plimsoll.spec.plan import ServingPlan

__all__ = ["check_engine", "host_scripts", "url_of"]


def check_engine(plan: ServingPlan, engine: str, target: str) -> None:
    """Refuse a plan judged for another engine."""
    if plan.engine != engine:
        refuse(
            target,
            "engine",
            plan.engine,
            "the plan's speed and memory were judged for that engine",
            f"set engine to {engine} and judge the plan again",
        )


def url_of(instance: Instance, num_hosts: int) -> str:
    """Where a router reaches an engine."""
    host = sites.address(instance.hosts[0], num_hosts)
    if isinstance(host, Raw):
        return Raw(f'"http://${{HOST_{instance.hosts[0]}}}:{instance.port}"')
    return f"http://{host}:{instance.port}"


def host_scripts(
    opening: tuple[str, ...], launches: Mapping[int, list[Launch]], num_hosts: int
) -> list[ExportedFile]:
    """A start script for each host."""
    files = []
    for host, items in sorted(launches.items()):
        name = "serve.sh" if num_hosts == 1 else f"serve-host{host}.sh"
        where = () if num_hosts == 1 else (f"Run on host {host} of {num_hosts}.",)
        text = script(comment(opening + where), items, needs=sites.script_needs(num_hosts))
        files.append(ExportedFile(name=name, text=text, executable=True))
    return files
