"""The Fleet and Models pages over a fleet that lives: what they show, and that they show it as it happens."""

from __future__ import annotations

import re
import signal
from threading import Thread

import httpx2
import pytest
from playwright.sync_api import expect

from dashboard import NARROW, NODES, WIDE, Opener, faults, overflows, start
from harness import Daemon, Fleet


@pytest.fixture(scope="module")
def gateway(fleet: Fleet) -> Daemon:
    return start(fleet)


def chat(gateway: Daemon, model: str, tokens: int = 4) -> httpx2.Response:
    body = {"model": model, "messages": [{"role": "user", "content": f"#tokens {tokens}"}]}
    return httpx2.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)


def test_the_fleet_is_shown_with_its_devices_to_scale(gateway: Daemon, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui")
    card = page.locator("[data-node=cellar]")
    drawn = card.locator("svg.device")

    expect(page.get_by_role("heading", level=1)).to_contain_text("2 nodes")
    expect(drawn.nth(0)).to_have_attribute("aria-label", re.compile("RTX 3090, 24 GiB: .*free"))
    widths = [float(drawn.nth(at).get_attribute("width") or 0) for at in range(2)]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.1)


def test_a_model_is_seen_to_load_and_to_be_ready(gateway: Daemon, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui#/models/qwen3-32b")
    row = page.locator("[data-model=qwen3-32b]")
    expect(row).to_contain_text("not loaded")
    expect(page.locator(".verdict")).to_contain_text("served once it is loaded")
    asking = Thread(target=chat, args=(gateway, "large"))
    asking.start()

    expect(row.locator(".state")).to_have_text(re.compile("load"))
    expect(row.locator(".state")).to_have_text("ready")
    expect(page.locator(".verdict")).to_contain_text("served at once")
    expect(page.locator(".lately")).to_contain_text("qwen3-32b is ready on")
    asking.join()


def test_what_stands_in_the_way_is_drawn_and_said(gateway: Daemon, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui#/models/llama-3.3-70b")
    cellar = page.locator("[data-candidate=cellar]")

    expect(cellar).to_contain_text("the catalogue allows only attic")
    expect(page.locator("[data-candidate=attic] svg.device .wanted").first).to_be_attached()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("path", ["fleet", "models", "models/qwen3-8b"])
def test_a_page_can_be_read_by_everybody_and_fits_its_window(
    gateway: Daemon, pages: Opener, axe: str, path: str, size: tuple[int, int], scheme: str
) -> None:
    page = pages(f"{gateway.url}/ui#/{path}", size=size, scheme=scheme)
    expect(page.locator(".live.good")).to_be_visible()
    expect(page.locator(".verdict" if "/" in path else "h1")).to_be_visible()

    assert faults(page, axe) == []
    assert not overflows(page)


def test_the_parts_are_reached_by_keyboard(gateway: Daemon, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui")
    expect(page.locator("h1")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.get_by_role("link", name="Models").focus()
    page.keyboard.press("Enter")

    expect(page.get_by_role("heading", level=1)).to_contain_text("6 models")
    assert page.title() == "Models · Cortex"


def test_a_node_that_dies_and_comes_back_is_seen_to(gateway: Daemon, fleet: Fleet, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui")
    card, attic = page.locator("[data-node=attic]"), fleet.daemons["attic"]
    expect(card.locator("header .state")).to_have_text("well")
    attic.stop(signal.SIGKILL)
    expect(card.locator("header .state")).to_have_text("does not answer")
    expect(card.locator(".last-seen")).to_contain_text(re.compile(r"Last seen .* ago"))
    expect(page.get_by_role("heading", level=1)).to_contain_text("1 of them well")
    fleet.neuron("attic", port=attic.port, config=NODES["attic"])

    expect(card.locator("header .state")).to_have_text("well")
    expect(card.locator("svg.device")).to_have_count(3)
