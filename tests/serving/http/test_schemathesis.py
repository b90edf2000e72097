"""Schemathesis against the OpenAPI document: generated requests, right and wrong, find nothing."""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from plimsoll.serving.http.app import create_app
from plimsoll.serving.http.settings import HttpSettings
from tests.serving.http.fake_engine import FakeEngine
from tests.serving.http.live_server import KEY, api_key
from tests.serving.http.small_text import text_tools

pytestmark = [
    # Of the client libraries that schemathesis calls the application with.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
schemathesis = pytest.importorskip("schemathesis")
from schemathesis.config import SchemathesisConfig  # noqa: E402

ENGINE = FakeEngine(text_tools())
APP = create_app(ENGINE, ENGINE.text, HttpSettings(), keys=(api_key(),))


def load() -> Any:
    # Rules that tie fields together or count tokens are not in the document: 400 is right too.
    accepted = ["2xx", "400", "404"]
    config = SchemathesisConfig.from_dict(
        {
            "headers": {"Authorization": f"Bearer {KEY}"},
            "checks": {"positive_data_acceptance": {"expected-statuses": accepted}},
        }
    )
    return schemathesis.openapi.from_asgi("/openapi.json", APP, config=config)


schema = load()


@schema.parametrize()
@settings(
    max_examples=60,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_nothing_is_found(case: Any) -> None:
    response = case.call_and_validate()  # raises at the first answer that the document forbids
    assert response.status_code < 500 or response.status_code in (501, 503)
