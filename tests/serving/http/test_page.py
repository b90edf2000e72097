"""The chat page: alone in one file, its script allowed by hash, answered in a real browser."""

import base64
import hashlib
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from plimsoll.serving.http import app as application
from tests.serving.http.browser import Browser
from tests.serving.http.fake_engine import FakeEngine
from tests.serving.http.live_server import KEY, api_key, serving
from tests.serving.http.small_text import text_tools

PAGE = Path(application.__file__).with_name("page") / "index.html"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Labels(HTMLParser):
    """Ids of fields, and which of them a label names or encloses."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: set[str] = set()
        self.labelled: set[str] = set()
        self.inside = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "label":
            self.inside += 1
            self.labelled.add(given.get("for") or "")
        if tag in ("input", "textarea", "select"):
            self.fields.add(given["id"] or "")
            if self.inside:
                self.labelled.add(given["id"] or "")

    def handle_endtag(self, tag: str) -> None:
        self.inside -= tag == "label"


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert not re.search(r"https?://|//[a-z]|@import|url\(", text.replace("data:,", ""))
    assert "innerHTML" not in text and "eval(" not in text


def test_every_field_has_a_label() -> None:
    labels = Labels()
    labels.feed(PAGE.read_text(encoding="utf-8"))
    assert labels.fields and labels.fields <= labels.labelled


def test_policy_allows_its_own_script_and_no_other() -> None:
    with serving(FakeEngine(text_tools())) as live:
        answer = httpx.get(live.url + "/")
    policy = answer.headers["content-security-policy"]
    (script,) = re.findall("<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "unsafe" not in policy
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_conversation_in_chromium(tmp_path: Path) -> None:
    """Typed, answered as it streams, stopped half-way; nothing is taken for HTML."""
    engine = FakeEngine(text_tools(), say=lambda _: "<b>Grüße</b> aus 世界")
    with serving(engine) as live, Browser(str(CHROMIUM), tmp_path) as browser:
        browser.open(f"{live.url}/?q=hello")
        browser.wait_for("document.getElementById('message').value === 'hello'")
        assert browser.value("document.getElementById('model').textContent") == "fake/model-1"
        browser.press_enter("message")
        browser.wait_for("document.querySelectorAll('small')[1]?.textContent.includes('tokens')")
        shown = "[...document.querySelectorAll('#log p')].map((p) => p.textContent).slice(1)"
        assert browser.value(shown) == ["hello", "<b>Grüße</b> aus 世界"]
        assert browser.value("document.querySelectorAll('#log b').length") == 0
        engine.pace_s = 0.05
        browser.type("message", "and again")
        browser.press_enter("message")
        browser.wait_for("document.querySelectorAll('#log p')[4]?.textContent.length > 3")
        browser.value("document.getElementById('stop').click()")
        browser.wait_for("document.querySelectorAll('small')[3].textContent === 'stopped'")
        assert engine.wait_for(lambda: len(engine.cancels) == 1)
        assert browser.errors == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_key_is_asked_for_in_chromium(tmp_path: Path) -> None:
    keys = (api_key(),)
    with (
        serving(FakeEngine(text_tools()), keys=keys) as live,
        Browser(str(CHROMIUM), tmp_path) as browser,
    ):
        browser.open(live.url)
        browser.wait_for("document.getElementById('settings').open")
        browser.type("key", KEY)
        browser.value("document.getElementById('key').dispatchEvent(new Event('change'))")
        browser.wait_for("document.getElementById('model').textContent === 'fake/model-1'")
        assert browser.value("document.getElementById('model').textContent") == "fake/model-1"
