"""The model that a serving plan serves: the one it names, with as many streams as it says."""

from plimsoll.spec.model import ModelSpec
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.streams import with_streams

__all__ = ["model_of_plan"]


def model_of_plan(plan: ServingPlan) -> ModelSpec:
    """The shapes to cost.

    Raises:
        SpecError: no such model, or streams other than its own.
        UnsupportedError: a model that cannot have streams.
    """
    return with_streams(load_model(plan.model), plan.streams)
