"""Load, unload, pin and drain by hand: each shows what it comes to first, and then does it."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from dashboard import NARROW, Opener, faults, start
from harness import Daemon, Fleet, until


@pytest.fixture(scope="module")
def gateway(fleet: Fleet) -> Daemon:
    return start(fleet)


def order(page: Page, button: str) -> Page:
    page.get_by_role("button", name=button).first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    return page


def replicas(gateway: Daemon, model: str) -> list[str]:
    nodes = gateway.get("/fleet")["nodes"]
    return [n["name"] for n in nodes for r in n["replicas"] if r["model"] == model and r["state"] == "ready"]


def test_a_model_is_loaded_where_it_is_told_to_be(gateway: Daemon, pages: Opener, axe: str) -> None:
    page = order(pages(f"{gateway.url}/ui#/models/gpt-oss-20b"), "Load…")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Where").select_option("cellar")
    expect(dialog).to_contain_text("On cellar, device 0: 14.6 GiB.")
    expect(dialog).to_contain_text("Nothing has to go for it.")
    assert faults(page, axe) == []
    assert replicas(gateway, "gpt-oss-20b") == []
    dialog.get_by_role("button", name="Load it").click()

    expect(dialog).to_be_hidden()
    expect(page.locator("[data-model=gpt-oss-20b] .state")).to_have_text("ready")
    assert replicas(gateway, "gpt-oss-20b") == ["cellar"]


def test_a_load_that_makes_others_go_says_which(gateway: Daemon, pages: Opener) -> None:
    page = order(pages(f"{gateway.url}/ui#/models/qwen3-32b", size=NARROW), "Load…")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Where").select_option("cellar")
    expect(dialog).to_contain_text(re.compile("First .*gpt-oss-20b.* go"))
    dialog.get_by_role("button", name="Leave it").click()

    expect(dialog).to_be_hidden()
    assert replicas(gateway, "gpt-oss-20b") == ["cellar"]


def test_a_model_is_pinned_and_unpinned(gateway: Daemon, pages: Opener) -> None:
    page = order(pages(f"{gateway.url}/ui#/models/gpt-oss-20b"), "Pin…")
    page.get_by_role("button", name="Pin it").click()
    expect(page.locator("[data-model=gpt-oss-20b]")).to_contain_text("pinned")
    page.reload()
    expect(page.locator("[data-model=gpt-oss-20b]")).to_contain_text("pinned")
    order(page, "Unpin…").get_by_role("button", name="Unpin it").click()

    expect(page.locator("[data-model=gpt-oss-20b]")).not_to_contain_text("pinned")


def test_a_node_is_drained_and_put_back(gateway: Daemon, pages: Opener) -> None:
    page = pages(f"{gateway.url}/ui")
    expect(page.locator("[data-node=cellar]")).to_contain_text("gpt-oss-20b")
    order(page, "Drain… cellar")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("gpt-oss-20b is loaded on attic, then goes.")
    dialog.get_by_role("button", name="Drain it").click()
    expect(page.locator("[data-node=cellar] header .state")).to_have_text("drained", timeout=30_000)
    expect(page.locator("[data-node=attic]")).to_contain_text("gpt-oss-20b")
    order(page, "Put back… cellar").get_by_role("button", name="Put it back").click()

    expect(page.locator("[data-node=cellar] header .state")).to_have_text("well")


def test_a_replica_is_unloaded_after_its_consequences_are_told(gateway: Daemon, pages: Opener) -> None:
    until("it is there", lambda: replicas(gateway, "gpt-oss-20b"))
    page = order(pages(f"{gateway.url}/ui#/models/gpt-oss-20b"), "Unload from attic…")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Nothing is under way there.")
    expect(dialog).to_contain_text("the next request waits for a load")
    dialog.get_by_role("button", name="Unload it").click()

    expect(page.locator("[data-model=gpt-oss-20b] .state")).to_have_text("not loaded")
    assert replicas(gateway, "gpt-oss-20b") == []


def test_what_cannot_be_done_is_said_in_the_dialog(gateway: Daemon, pages: Opener) -> None:
    page = order(
        pages(f"{gateway.url}/ui#/models/llama-3.3-70b", errs=("409",)),
        "Load…",
    )
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Where").select_option("cellar")

    expect(dialog.get_by_role("alert")).to_contain_text("the catalogue allows only attic")
    expect(dialog.get_by_role("button", name="Load it")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
