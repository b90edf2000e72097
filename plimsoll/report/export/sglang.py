"""SGLang: ``sglang.launch_server`` lines for each host, and the router."""

from plimsoll.report.export import site as sites
from plimsoll.report.export.bare_hosts import check_engine, host_scripts, url_of
from plimsoll.report.export.contract import ExportContext, ExportedFile
from plimsoll.report.export.header import comment, header
from plimsoll.report.export.layout import check_plan, front_port, place
from plimsoll.report.export.routing import SGLANG_ROUTER, router_notes, sglang_router
from plimsoll.report.export.sglang_arguments import bootstrap_port, launch, static_fraction
from plimsoll.report.export.shell import Launch, script
from plimsoll.spec.plan import ServingPlan

__all__ = ["VERSIONS", "export", "fraction_notes"]

VERSIONS = ("SGLang 0.5.21 to 0.5.23", SGLANG_ROUTER)


def fraction_notes(plan: ServingPlan, context: ExportContext, target: str) -> tuple[str, ...]:
    """How each pool's share of memory was converted."""
    notes = []
    for index, (pool, facts) in enumerate(zip(plan.pools, context.pools, strict=True)):
        share = static_fraction(pool, facts, index, target)
        notes.append(
            f"--mem-fraction-static {share!r} covers weights and KV only; the plan's "
            f"{pool.memory_fraction!r} of pools[{index}] also covers activations and runtime."
        )
    return tuple(notes)


def export(plan: ServingPlan, context: ExportContext) -> tuple[ExportedFile, ...]:
    """The files of a deployment on bare hosts.

    Raises:
        UnsupportedError: a field has no counterpart; the message names it.
    """
    check_plan(plan, context, "sglang")
    check_engine(plan, "sglang", "sglang")
    instances = place(plan, context, "sglang")
    num_hosts = 1 + max(max(i.hosts) for i in instances)
    launches: dict[int, list[Launch]] = {}
    for instance in instances:
        for host in instance.hosts:
            vendor = context.pools[instance.pool_index].vendor
            at = sites.of_instance(instance, host, num_hosts, vendor)
            process = launch(plan, instance.pool_index, context, at, "sglang")
            launches.setdefault(host, []).append(process)
    top = header(plan, "Start the SGLang engines.", VERSIONS)
    top += fraction_notes(plan, context, "sglang")
    files = host_scripts(top, launches, num_hosts)
    if len(instances) > 1:
        engines, prefill = [], []
        for instance in instances:
            url = url_of(instance, num_hosts)
            if plan.pools[instance.pool_index].role == "prefill":
                vendor = context.pools[instance.pool_index].vendor
                at = sites.of_instance(instance, instance.hosts[0], num_hosts, vendor)
                prefill.append((url, bootstrap_port(at)))
            else:
                engines.append(url)
        process = sglang_router(plan, port=front_port(), engines=engines, prefill=prefill)
        top = header(plan, "Start the router, on host 0.", VERSIONS) + router_notes(plan)
        text = script(comment(top), [process], needs=sites.script_needs(num_hosts))
        files.append(ExportedFile(name="router.sh", text=text, executable=True))
    return tuple(files)
