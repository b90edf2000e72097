"""Settings of the plan space, as words."""

import pytest

from plimsoll.api.plan_settings import space_options
from plimsoll.spec.errors import SpecError


@pytest.mark.parametrize(
    ("settings", "limits"),
    [
        (("gpus=0",), {}),
        ((), {"power": "0kW"}),
        ((), {"budget": "0usd/h"}),
    ],
)
def test_limits_of_zero_are_refused_rather_than_read_as_none(settings, limits):
    with pytest.raises(SpecError, match="zero"):
        space_options(settings, **limits)
    options, _ = space_options(("gpus=3",))
    assert options.max_devices == 3
