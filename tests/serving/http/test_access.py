"""Who may call and how much: bindings, keys, rates, quotas, hosts. One test a protection."""

import hmac
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from plimsoll.serving.http.app import create_app
from plimsoll.serving.http.errors import ApiError
from plimsoll.serving.http.keys import ApiKey, KeyRing, Meter, read_keys
from plimsoll.serving.http.settings import HttpSettings, check_binding, is_loopback
from plimsoll.spec.errors import SpecError, UnsupportedError
from tests.serving.http.fake_engine import FakeEngine
from tests.serving.http.live_server import KEY, Live, api_key, serving
from tests.serving.http.small_text import text_tools

OTHER = "sk-other-0123456789abcdef"
ASK = {"model": "fake/model-1", "prompt": "abcd", "max_tokens": 4}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Live]:
    with serving(FakeEngine(text_tools()), keys=(api_key(), api_key("other", OTHER))) as live:
        yield live


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.com", ""])
def test_other_machines_need_keys(host: str) -> None:
    settings = HttpSettings(host=host)
    with pytest.raises(UnsupportedError, match="no API keys"):
        check_binding(settings, num_keys=0)
    check_binding(settings, num_keys=1)
    engine = FakeEngine(text_tools())
    with pytest.raises(UnsupportedError):
        create_app(engine, engine.text, settings)
    engine.close()


def test_loopback_is_the_default_and_needs_none() -> None:
    assert is_loopback(HttpSettings().host) and is_loopback("::1") and is_loopback("127.8.8.8")
    check_binding(HttpSettings(), num_keys=0)


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/completions", "/nothing", "/docs"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong-key-0123456789"),
        {"authorization": "Bearer"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": KEY},
        bearer(KEY + "x"),
        bearer(KEY[:-1]),
        bearer("é" * 20),
    ],
    ids=["none", "wrong", "empty", "basic", "bare", "longer", "shorter", "odd"],
)
def test_without_a_valid_key_nothing_answers(
    guarded: Live, path: str, headers: dict[str, str]
) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    before = len(guarded.engine.seen)
    answer = httpx.request("POST", guarded.url + path, headers=raw, json=ASK)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert len(guarded.engine.seen) == before


def test_two_authorization_headers_are_refused(guarded: Live) -> None:
    both = [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer other")]
    assert httpx.get(guarded.url + "/v1/models", headers=both).status_code == 401


def test_each_key_opens(guarded: Live) -> None:
    for key in (KEY, OTHER):
        assert httpx.get(guarded.url + "/v1/models", headers=bearer(key)).status_code == 200
    assert httpx.get(guarded.url + "/health").status_code == 200
    assert httpx.get(guarded.url + "/").status_code == 200


def test_every_key_is_compared_in_constant_time() -> None:
    """By digest, with hmac's comparison, and with no early end at a match."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return hmac.compare_digest(a, b)

    keys = [api_key(f"k{i}", KEY + str(i)) for i in range(5)]
    ring = KeyRing(keys, requests_per_minute=None, tokens_per_day=None, compare=compare)
    assert ring.meter(f"Bearer {KEY}1").name == "k1"
    assert [b for _, b in compared] == [key.digest for key in keys]
    assert {len(side) for pair in compared for side in pair} == {32}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "", "10.0.0.1", "[::2]"]
)
def test_names_that_resolve_to_loopback_do_not_get_in(host: str) -> None:
    """Without keys a page on the web must not reach the server through DNS rebinding."""
    with serving(FakeEngine(text_tools())) as live:
        refused = httpx.get(live.url + "/v1/models", headers={"host": host})
        assert refused.status_code == 403
        for good in ("localhost", "127.0.0.1:99", "[::1]:99", "LOCALHOST:1"):
            answer = httpx.get(live.url + "/v1/models", headers={"host": good})
            assert answer.status_code == 200, good


def test_a_form_of_another_site_cannot_post() -> None:
    """A cross-site request without preflight can have no JSON content type."""
    with serving(FakeEngine(text_tools())) as live:
        for kind in ("text/plain", "application/x-www-form-urlencoded", None):
            headers = {} if kind is None else {"content-type": kind}
            answer = httpx.post(
                live.url + "/v1/completions", content=json.dumps(ASK), headers=headers
            )
            assert answer.status_code == 400
        assert live.engine.seen == []
        asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
        preflight = httpx.options(live.url + "/v1/completions", headers=asked)
        assert "access-control-allow-origin" not in preflight.headers


def test_rate_limit_of_one_key_leaves_the_other_alone() -> None:
    keys = (api_key(requests_per_minute=2), api_key("other", OTHER))
    with serving(FakeEngine(text_tools()), keys=keys) as live:
        url = live.url + "/v1/models"
        statuses = [httpx.get(url, headers=bearer(KEY)).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        refused = httpx.get(url, headers=bearer(KEY))
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 0 < int(refused.headers["retry-after"]) <= 30
        assert httpx.get(url, headers=bearer(OTHER)).status_code == 200


def test_quota_counts_what_was_used() -> None:
    """A reservation of 8 tokens, of which a stop string leaves 5: 20 hold three, not four."""
    engine = FakeEngine(text_tools())
    with serving(engine, keys=(api_key(tokens_per_day=20),)) as live:
        asked = {**ASK, "stop": "a", "seed": 0}
        statuses = []
        for _ in range(5):
            answer = httpx.post(live.url + "/v1/completions", json=asked, headers=bearer(KEY))
            statuses.append(answer.status_code)
        assert statuses == [200, 200, 200, 429, 429]
        assert answer.json()["error"]["code"] == "insufficient_quota"
        assert int(answer.headers["retry-after"]) > 80_000
        vector = {"model": "fake/model-1", "input": "123456"}
        refused = httpx.post(live.url + "/v1/embeddings", json=vector, headers=bearer(KEY))
        assert refused.status_code == 429


def test_meter_runs_on_the_clock_it_is_given() -> None:
    meter = Meter("x", requests_per_minute=60, tokens_per_day=10)
    for _ in range(60):
        meter.admit(1000.0)
    with pytest.raises(ApiError):
        meter.admit(1000.0)
    meter.admit(1001.0)
    meter.reserve(10, 1000.0)
    with pytest.raises(ApiError):
        meter.reserve(1, 1000.0 + 86_399)
    meter.settle(10, 4)
    meter.reserve(6, 1000.0 + 86_399)
    meter.reserve(10, 1000.0 + 86_400)


def test_keys_of_file_and_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(f"- {{name: a, key: {KEY}, requests_per_minute: 5}}\n", encoding="utf-8")
    first, second = read_keys(file, {"PLIMSOLL_API_KEYS": f"b:{OTHER}"})
    assert first == api_key("a", requests_per_minute=5)
    assert second == api_key("b", OTHER)
    assert KEY not in repr(first)
    assert read_keys(None, {}) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {name: a, key: short}", "16 or more"),
        ("- {name: a}", "expected the fields"),
        (f"- {{name: a, key: {KEY}, limit: 3}}", "of .* only"),
        (f"- {{name: a, key: {KEY}, tokens_per_day: -1}}", "more than 0"),
        (f"- {{name: a, key: {KEY}}}\n- {{name: a, key: {OTHER}}}", "same name"),
        (f"- {{name: a, key: {KEY}}}\n- {{name: b, key: {KEY}}}", "share one"),
        ("[]", "found none"),
        ("{", "cannot be read"),
    ],
)
def test_bad_key_files_are_refused_without_showing_keys(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=said) as caught:
        read_keys(file, {})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("field", ["max_body_bytes", "idle_timeout_s", "requests_per_minute"])
def test_settings_have_no_off_values(field: str) -> None:
    with pytest.raises(SpecError, match="more than 0"):
        HttpSettings(**{field: 0})
    with pytest.raises(SpecError, match="65535"):
        HttpSettings(port=70_000)


def test_key_is_stored_as_a_digest() -> None:
    assert isinstance(api_key(), ApiKey) and KEY.encode() not in api_key().digest
