"""What lending KV between the replicas of a plan takes, from the cost model of their devices."""

from collections.abc import Mapping, Sequence

from plimsoll.cost.query_exchange import exchange_s
from plimsoll.cost.step import ReplicaClock
from plimsoll.serving.executors.lent_steps import Lending
from plimsoll.serving.simulate.placement import Seat
from plimsoll.spec.errors import UnsupportedError
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.plan import KvPoolRouter, ServingPlan

__all__ = ["lending_of"]


def lending_of(
    plan: ServingPlan, model: ModelSpec, placed: Sequence[Seat], clocks: Sequence[object]
) -> Lending | None:
    """None where the plan's router lends nothing.

    Raises:
        UnsupportedError: the model or the engine cannot attend to KV elsewhere.
    """
    if not isinstance(plan.router, KvPoolRouter):
        return None
    found = [clock for clock in clocks if isinstance(clock, ReplicaClock)]
    if len(found) < len(clocks):
        raise UnsupportedError(
            "plan: what it takes to attend to KV on other replicas is not measured for engine "
            "plimsoll; use another engine or router"
        )
    sides = {
        i: {j: (there.device, there.node == here.node) for j, there in enumerate(placed)}
        for i, here in enumerate(placed)
    }

    def of_step(source: int, queries: Mapping[int, int]) -> float:
        here = placed[source]
        return exchange_s(
            model,
            queries,
            source=here.device,
            num_devices=here.pool.parallel.num_devices,
            targets=sides[source],
            rates=found[source].setting.calibration.collective,
        )

    for i in range(len(placed)):
        of_step(i, {})  # models that cannot are refused here
    return Lending(exchange_s=of_step)
