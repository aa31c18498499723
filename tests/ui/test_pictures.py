"""The pictures of the documentation, made of a fleet that works; `CORTEX_PICTURES=1` puts them where it has them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Page, expect

from dashboard import NARROW, WIDE, Opener, start
from harness import Daemon, Fleet, until

DOCS = Path(__file__).parents[2] / "docs" / "dashboard"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.environ.get("CORTEX_PICTURES"):
        DOCS.mkdir(exist_ok=True)
        return DOCS
    return tmp_path_factory.mktemp("pictures")


def chat(gateway: Daemon, model: str, tokens: int) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": f"#tokens {tokens}"}]}
    httpx2.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)


@pytest.fixture(scope="module")
def gateway(fleet: Fleet) -> Daemon:
    """A fleet on which three models have just answered."""
    gateway = start(fleet)
    for model in ("qwen3-8b", "gemma-3-12b", "gpt-oss-20b"):
        chat(gateway, model, 30)
    with ThreadPoolExecutor(6) as clients:
        list(clients.map(lambda at: chat(gateway, ("qwen3-8b", "gpt-oss-20b")[at % 2], 20 + 5 * at), range(18)))
    until("all are kept", lambda: len(gateway.get("/traces?limit=50")["data"]) == 21)
    return gateway


def take(page: Page, place: Path, name: str, *, whole: bool = False) -> None:
    page.evaluate("document.fonts.ready")
    page.screenshot(path=place / f"{name}.png", full_page=whole)
    assert (place / f"{name}.png").stat().st_size > 10_000


def test_what_stands_in_the_way_of_a_model(gateway: Daemon, pages: Opener, place: Path) -> None:
    page = pages(f"{gateway.url}/ui#/models/llama-3.3-70b")
    expect(page.locator(".wanted").first).to_be_visible()
    take(page, place, "models")


def test_a_plan_before_it_is_carried_out(gateway: Daemon, pages: Opener, place: Path) -> None:
    page = pages(f"{gateway.url}/ui#/models/llama-3.3-70b", scheme="dark")
    expect(page.locator(".wanted").first).to_be_visible()
    page.get_by_role("button", name="Load…").click()
    expect(page.get_by_role("dialog")).to_contain_text("First")
    take(page, place, "order")


def test_the_fleet_at_work(gateway: Daemon, pages: Opener, place: Path) -> None:
    page = pages(f"{gateway.url}/ui")
    with ThreadPoolExecutor(6) as clients:
        for at in range(5):
            clients.submit(chat, gateway, ("qwen3-8b", "gpt-oss-20b")[at % 2], 150)
        clients.submit(chat, gateway, "qwen3-32b", 10)
        expect(page.locator("[data-node] .is-loading").first).to_be_visible()
        expect(page.locator(".replicas", has_text="3/4").first).to_be_visible()
        take(page, place, "fleet")


def test_the_fleet_on_a_phone_in_the_dark(gateway: Daemon, pages: Opener, place: Path) -> None:
    page = pages(f"{gateway.url}/ui", size=NARROW, scheme="dark")
    expect(page.locator("[data-node=attic] svg.device")).to_have_count(3)
    take(page, place, "phone")


def test_the_story_of_a_cold_start(gateway: Daemon, pages: Opener, place: Path) -> None:
    slowest = gateway.get("/traces?slow")["data"][0]["id"]
    page = pages(f"{gateway.url}/ui#/requests/{slowest}", size=(WIDE[0], 1150))
    expect(page.locator(".waterfall")).to_be_visible()
    expect(page.locator(".chart canvas")).to_have_count(4)
    take(page, place, "requests")


def test_two_models_side_by_side(gateway: Daemon, pages: Opener, place: Path) -> None:
    page = pages(f"{gateway.url}/ui#/playground")
    page.get_by_role("button", name="Two models").click()
    expect(page.locator("option", has_text="gpt-oss-20b").nth(1)).to_be_attached()
    page.get_by_label("Model").nth(0).select_option("qwen3-8b")
    page.get_by_label("Model").nth(1).select_option("gpt-oss-20b")
    page.get_by_label("Your message").fill("Why do two replicas of one model answer at different speeds?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn[data-state=done]")).to_have_count(2)
    take(page, place, "playground")


def test_keys_with_limits_and_use(gateway: Daemon, pages: Opener, place: Path) -> None:
    """The last one: from here on this gateway wants a key."""
    me = httpx2.post(f"{gateway.url}/keys", json={"name": "me", "scope": "admin"}, trust_env=False).json()["key"]
    headers = {"authorization": f"Bearer {me}"}
    for key in (
        {"name": "ada", "models": ["qwen*", "default"], "budget_tokens": 2_000, "concurrency": 4},
        {"name": "ci", "requests_per_minute": 60, "expires": "90d"},
    ):
        made = httpx2.post(f"{gateway.url}/keys", json=key, headers=headers, trust_env=False).json()
        body = {"model": "default", "messages": [{"role": "user", "content": "#tokens 300"}]}
        shown = {"authorization": f"Bearer {made['key']}"}
        httpx2.post(f"{gateway.url}/v1/chat/completions", json=body, headers=shown, timeout=60, trust_env=False)
    page = pages(f"{gateway.url}/ui#/keys")
    page.get_by_label("Key").fill(me)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("[data-key=ci] td").nth(6)).to_have_text("1")
    take(page, place, "keys")


def test_all_pictures_together_are_small() -> None:
    if DOCS.exists():
        assert sum(path.stat().st_size for path in DOCS.glob("*.png")) < 1.5e6
