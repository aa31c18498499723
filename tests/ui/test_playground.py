"""The Playground: streams, stops, compares, calls tools, keeps to a schema, tells what it waits for and costs."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from playwright.sync_api import Page, expect

from dashboard import NARROW, WIDE, Opener, faults, overflows, start
from harness import Daemon, Fleet


@pytest.fixture(scope="module")
def gateway(fleet: Fleet) -> Daemon:
    return start(fleet)


def say(page: Page, text: str, model: str = "qwen3-8b") -> Page:
    expect(page.locator("option", has_text=model).first).to_be_attached()
    page.get_by_label("Model").first.select_option(model)
    page.get_by_label("Your message").fill(text)
    page.get_by_role("button", name="Send").click()
    return page


def test_a_cold_model_tells_how_far_it_is_and_then_answers_with_what_it_cost(gateway: Daemon, pages: Opener) -> None:
    page = say(pages(f"{gateway.url}/ui#/playground"), "#tokens 40")

    expect(page.locator(".waits")).to_contain_text("loading qwen3-8b on")
    expect(page.locator(".turn[data-state=done] .figures")).to_contain_text(
        re.compile(r"qwen3-8b.* · first token after .* · [\d.]+ tok/s · \d+ \+ 40 tokens")
    )


def test_an_answer_is_stopped_and_keeps_what_had_come(gateway: Daemon, pages: Opener) -> None:
    page = say(pages(f"{gateway.url}/ui#/playground"), "#tokens 2000")
    expect(page.locator(".answer")).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()

    expect(page.locator(".figures")).to_contain_text("stopped")
    expect(page.locator(".answer")).not_to_be_empty()
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_a_conversation_goes_on_from_what_was_said(gateway: Daemon, pages: Opener) -> None:
    page = say(pages(f"{gateway.url}/ui#/playground"), "#echo one")
    expect(page.locator(".turn[data-state=done]")).to_have_count(1)
    with page.expect_request("**/v1/chat/completions") as sent:
        say(page, "#echo two")
    expect(page.locator(".turn[data-state=done]")).to_have_count(2)

    messages = json.loads(sent.value.post_data or "")["messages"]
    assert [(each["role"], each["content"]) for each in messages] == [
        ("user", "#echo one"),
        ("assistant", "one"),
        ("user", "#echo two"),
    ]


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_two_models_answer_the_same_side_by_side(
    gateway: Daemon, pages: Opener, axe: str, size: tuple[int, int]
) -> None:
    page = pages(f"{gateway.url}/ui#/playground", size=size)
    page.get_by_role("button", name="Two models").click()
    expect(page.locator("option", has_text="gemma-3-12b").nth(1)).to_be_attached()
    page.get_by_label("Model").nth(1).select_option("gemma-3-12b")
    say(page, "#tokens 12")
    talks = page.locator(".talk")

    expect(talks.nth(0).locator(".turn[data-state=done] .figures")).to_contain_text("qwen3-8b")
    expect(talks.nth(1).locator(".turn[data-state=done] .figures")).to_contain_text("gemma-3-12b")
    assert faults(page, axe) == []
    assert not overflows(page)


def test_tools_and_a_schema_are_sent_and_their_answers_shown(gateway: Daemon, pages: Opener, axe: str) -> None:
    page = pages(f"{gateway.url}/ui#/playground")
    page.get_by_text("System prompt, sampling").click()
    page.get_by_role("button", name="An example").first.click()
    assert faults(page, axe) == []
    say(page, "#tool")
    expect(page.locator(".call")).to_contain_text('weather({"city":')
    page.get_by_role("button", name="Without tools").click()
    page.get_by_role("button", name="An example").nth(1).click()
    page.get_by_role("button", name="Begin anew").click()
    say(page, "hello")
    expect(page.locator(".turn[data-state=done]")).to_have_count(1)

    assert set(json.loads(page.locator(".answer").inner_text())) == {"city", "degrees"}


def test_what_is_no_json_is_said_before_anything_is_sent(gateway: Daemon, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui#/playground")
    page.get_by_text("System prompt, sampling").click()
    page.get_by_label("Tools, as JSON").fill("[{]")
    say(page, "hello")

    expect(page.locator(".ask .reason")).to_contain_text("Tools:")
    expect(page.locator(".turn[data-state]")).to_have_count(0)


def test_a_refusal_is_shown_where_the_answer_would_be(gateway: Daemon, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui#/playground", errs=("400",))
    page.get_by_text("System prompt, sampling").click()
    page.get_by_label("Most tokens").fill("999999999")
    page.get_by_label("Temperature").fill("1")
    say(page, "#tokens 3", "nomic-embed-text")

    expect(page.locator(".turn .reason, .turn .answer").first).to_be_visible()


def copied(page: Page, name: str) -> str:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name=name, exact=True).click()
    expect(page.get_by_role("button", name="copied")).to_be_visible()
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def test_the_request_is_copied_as_curl_and_python_that_work(gateway: Daemon, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui#/playground")
    expect(page.locator("option", has_text="qwen3-8b").first).to_be_attached()
    page.get_by_label("Model").select_option("qwen3-8b")
    page.get_by_label("Your message").fill('#echo it\'s true, "null" and so on')
    curl = copied(page, "curl")
    python = copied(page, "Python")

    done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=30, check=True)
    assert "[DONE]" in done.stdout
    done = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == 'it\'s true, "null" and so on'


def test_the_request_is_copied_as_javascript(gateway: Daemon, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui#/playground")
    page.get_by_label("Your message").fill("hello")
    text = copied(page, "JavaScript")

    assert f'baseURL: "{gateway.url}/v1"' in text
    assert '"content": "hello"' in text
