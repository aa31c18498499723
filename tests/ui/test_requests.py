"""The Requests page: what has ended is listed as it ends, told span by span, filtered, and drawn over time."""

from __future__ import annotations

import re

import httpx2
import pytest
from playwright.sync_api import expect

from dashboard import NARROW, WIDE, Opener, faults, overflows, start
from harness import Daemon, Fleet, until


def chat(gateway: Daemon, model: str, tokens: int = 4) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": f"#tokens {tokens}"}]}
    return httpx2.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=60, trust_env=False).status_code


@pytest.fixture(scope="module")
def gateway(fleet: Fleet) -> Daemon:
    """One with a cold start, a few warm answers and a refusal in its memory."""
    gateway = start(fleet)
    assert [chat(gateway, model) for model in ("qwen3-8b", "qwen3-8b", "qwen3-8b", "gone")] == [200, 200, 200, 404]
    until("all are kept", lambda: len(gateway.get("/traces?limit=50")["data"]) == 4)
    return gateway


def test_a_request_is_listed_as_soon_as_it_has_ended(gateway: Daemon, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui#/requests")
    rows = page.locator("[data-request]")
    expect(rows).not_to_have_count(0)
    before = rows.count()
    chat(gateway, "qwen3-8b")

    expect(rows).to_have_count(before + 1)
    expect(rows.first).to_contain_text("qwen3-8b")
    expect(rows.first).to_contain_text("answered")


def test_the_story_of_a_cold_start_is_told_span_by_span(gateway: Daemon, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui#/requests")
    page.locator("tr", has_text="cold start").get_by_role("link").click()
    story = page.locator(".story")

    expect(story.locator(".span-name").first).to_have_text("accepted")
    for name in ("waiting", "cold start", "load", "prefill", "decode"):
        expect(story.locator(".span-name", has_text=re.compile(f"^{name}$")).first).to_be_visible()
    expect(story).to_contain_text(re.compile("Went to (attic|cellar): .*; expected to take"))
    bar = story.locator("li", has_text="cold start").locator(".bar").bounding_box()
    track = story.locator("li", has_text="cold start").locator(".track").bounding_box()
    assert bar is not None
    assert track is not None
    assert 0.5 * track["width"] < bar["width"] <= track["width"]


def test_requests_are_filtered_by_what_became_of_them_and_by_model(gateway: Daemon, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui#/requests")
    rows = page.locator("[data-request]")
    expect(page.locator("tr", has_text="model_not_found")).to_have_count(1)
    page.get_by_label("failed only").check()
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("model_not_found")
    page.get_by_label("failed only").uncheck()
    page.get_by_label("slowest first").check()
    expect(rows.first).to_contain_text("cold start")
    page.get_by_label("Model").select_option("gemma-3-12b")

    expect(rows).to_have_count(0)
    expect(page.get_by_text("There is none of that kind.")).to_be_visible()


def test_the_trend_is_drawn_and_looks_as_far_back_as_it_is_told(gateway: Daemon, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui#/requests")
    charts = page.locator(".chart")
    expect(charts).to_have_count(4)
    expect(charts.nth(0).get_by_role("img")).to_have_attribute("aria-label", re.compile(r"half within \d"))
    expect(charts.nth(3).get_by_role("img")).to_have_attribute("aria-label", re.compile(r"loads \d"))
    expect(page.locator(".chart canvas")).to_have_count(4)
    with page.expect_request("**/fleet/history?since=24h"):
        page.get_by_role("button", name="24h").click()

    expect(page.get_by_role("heading", level=1)).to_contain_text("in the last day, 1 of them failed")


def test_a_request_that_nobody_knows_is_said_to_be_none(gateway: Daemon, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui#/requests/req-nothing", errs=("404",))

    expect(page.locator(".detail")).to_contain_text("there is no trace of 'req-nothing'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_page_can_be_read_by_everybody_and_fits_its_window(
    gateway: Daemon, pages: Opener, axe: str, size: tuple[int, int], scheme: str
) -> None:
    first = gateway.get("/traces?slow")["data"][0]["id"]
    page = pages(f"{gateway.url}/ui#/requests/{first}", size=size, scheme=scheme)
    expect(page.locator(".waterfall")).to_be_visible()
    expect(page.locator("[data-request]").first).to_be_visible()

    assert faults(page, axe) == []
    assert not overflows(page)
