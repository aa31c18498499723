"""Keys by hand: the first one closes the gateway, one opens a session, and none is left where a script reads."""

from __future__ import annotations

import httpx2
import pytest
from playwright.sync_api import Page, expect

from dashboard import NARROW, WIDE, Opener, faults, overflows, start
from harness import Daemon, Fleet

KEYS: dict[str, str] = {}


@pytest.fixture(scope="module")
def gateway(fleet: Fleet) -> Daemon:
    return start(fleet)


def make(page: Page, name: str, **fields: str) -> str:
    page.get_by_label("Name").fill(name)
    for label, value in fields.items():
        page.get_by_label(label.replace("_", " ")).fill(value)
    page.get_by_role("button", name="Make it").click()
    shown = page.locator(".secret")
    expect(page.locator(".shown")).to_contain_text(name)
    return shown.inner_text()


def sign_in(page: Page, key: str) -> Page:
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    return page


def test_the_first_key_closes_the_gateway_and_its_maker_goes_on_under_it(
    gateway: Daemon, pages: Opener, axe: str
) -> None:
    page = pages(f"{gateway.url}/ui#/keys")
    expect(page.get_by_role("heading", level=1)).to_contain_text("There are no keys")
    assert faults(page, axe) == []
    KEYS["me"] = make(page, "me")

    expect(page.get_by_role("heading", level=1)).to_contain_text("1 key; nobody gets in without one")
    expect(page.locator(".who")).to_have_text("me")
    assert httpx2.get(f"{gateway.url}/fleet", trust_env=False).status_code == 401
    page.get_by_role("button", name="I have it").click()
    expect(page.locator(".secret")).to_be_hidden()
    page.reload()
    expect(page.locator("[data-key=me]")).to_contain_text("yours")
    assert KEYS["me"] not in page.content()


def test_nothing_is_shown_without_a_key_and_a_wrong_one_is_refused(gateway: Daemon, pages: Opener, axe: str) -> None:
    page = pages(f"{gateway.url}/ui#/keys", errs=("401",))
    expect(page.get_by_role("heading", level=1)).to_have_text("This gateway wants a key.")
    assert faults(page, axe) == []
    sign_in(page, "ctx_wrong")

    expect(page.get_by_role("alert")).to_contain_text("the key is not valid")
    expect(page.locator("nav")).to_have_count(0)


def test_a_session_is_a_cookie_that_no_script_reads_and_the_key_is_nowhere(gateway: Daemon, pages: Opener) -> None:
    page = sign_in(pages(f"{gateway.url}/ui"), KEYS["me"])
    expect(page.locator(".live.good")).to_be_visible()
    (cookie,) = page.context.cookies()

    assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Strict", False)
    assert KEYS["me"] not in str(page.context.storage_state())
    assert page.evaluate("document.cookie + JSON.stringify({...localStorage, ...sessionStorage})") == "{}"
    assert "ctx_" not in page.url
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("This gateway wants a key.")
    assert page.context.cookies() == []


def test_a_key_with_limits_is_made_listed_and_revoked(gateway: Daemon, pages: Opener, axe: str) -> None:
    page = sign_in(pages(f"{gateway.url}/ui#/keys"), KEYS["me"])
    key = make(page, "ada", Requests_a_minute="60", Models="qwen*, default", Budget="2000000", Ends="90d")
    chat = {"model": "qwen3-8b", "messages": [{"role": "user", "content": "#tokens 5"}]}
    headers = {"authorization": f"Bearer {key}"}
    ask = lambda: httpx2.post(  # noqa: E731
        f"{gateway.url}/v1/chat/completions", json=chat, headers=headers, timeout=30, trust_env=False
    )
    assert ask().status_code == 200
    page.reload()
    row = page.locator("[data-key=ada]")

    expect(row).to_contain_text("60 requests/min")
    expect(row).to_contain_text("of 2,000,000 tokens in 24 h")
    expect(row.locator("td").nth(6)).to_have_text("1")
    assert faults(page, axe) == []
    row.get_by_role("button", name="Revoke… ada").click()
    row.get_by_role("button", name="Revoke ada").click()
    expect(row).to_have_count(0)
    assert ask().status_code == 401


def test_the_keys_are_read_on_a_phone_too(gateway: Daemon, pages: Opener, axe: str) -> None:
    page = sign_in(pages(f"{gateway.url}/ui#/keys", size=NARROW, scheme="dark"), KEYS["me"])
    expect(page.locator("[data-key=me]")).to_contain_text("yours")

    assert faults(page, axe) == []
    assert not overflows(page)


def test_what_is_wrong_is_said_where_it_was_typed(gateway: Daemon, pages: Opener) -> None:
    page = sign_in(pages(f"{gateway.url}/ui#/keys", errs=("400", "409")), KEYS["me"])
    page.get_by_label("Name").fill("a b")
    page.get_by_role("button", name="Make it").click()

    expect(page.locator(".new-key .reason")).to_contain_text("name")
    page.get_by_role("button", name="Revoke… me").click()
    page.get_by_role("button", name="Revoke me").click()
    expect(page.locator(".reason").first).to_contain_text("the last key of scope admin")


def test_a_page_whose_key_is_revoked_shows_nothing_more(gateway: Daemon, pages: Opener) -> None:
    admin = {"authorization": f"Bearer {KEYS['me']}"}
    made = {"name": "guest", "scope": "admin"}
    key = httpx2.post(f"{gateway.url}/keys", json=made, headers=admin, trust_env=False).json()["key"]
    page = sign_in(pages(f"{gateway.url}/ui", errs=("401",)), key)
    expect(page.locator("[data-node=attic]")).to_be_visible()
    httpx2.delete(f"{gateway.url}/keys/guest", headers=admin, trust_env=False)

    expect(page.get_by_role("heading", level=1)).to_have_text("This gateway wants a key.")
    expect(page.locator("[data-node]")).to_have_count(0)


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_key_for_inference_sees_the_playground_alone(
    gateway: Daemon, pages: Opener, axe: str, size: tuple[int, int]
) -> None:
    if "bob" not in KEYS:
        KEYS["bob"] = make(sign_in(pages(f"{gateway.url}/ui#/keys"), KEYS["me"]), "bob")
    page = sign_in(pages(f"{gateway.url}/ui#/fleet", size=size), KEYS["bob"])

    expect(page.get_by_role("heading", level=1)).to_contain_text("Talk to a model")
    expect(page.locator("nav a")).to_have_text(["Playground"])
    page.get_by_label("Your message").fill("#tokens 3")
    page.keyboard.press("Enter")
    expect(page.locator(".turn[data-state=done]")).to_be_visible()
    assert faults(page, axe) == []
    assert not overflows(page)
