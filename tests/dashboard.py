"""The fleet that the dashboard is tried on, how its pages are opened, and what is asked of every one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness import Daemon, Fleet

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDE, NARROW = (1280, 860), (390, 844)
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

Opener = Callable[..., "Page"]
"""Opens an address in a window of its own: *size*, *scheme* (light or dark), *errs*: what the console may say."""


def devices(*names_and_mb: tuple[str, int]) -> str:
    return "".join(f'[[simulated_devices]]\nname = "{name}"\nmemory_mb = {mb}\n' for name, mb in names_and_mb)


def model(name: str, memory_mb: int, extra: str = "", **options: float) -> str:
    declared = {"memory_mb": memory_mb, "load_seconds": 1.5, "tokens_per_second": 60, "slots": 4, **options}
    written = ", ".join(f"{key} = {value}" for key, value in declared.items())
    return f'[[models]]\nid = "{name}"\nengine = "simulated"\n{extra}\noptions = {{ {written} }}\n'


MODELS = "".join(
    (
        model("qwen3-32b", 21_000, 'aliases = ["large"]\npriority = 200', load_seconds=2.5),
        model("qwen3-8b", 9_500, 'aliases = ["default"]\nmax_replicas = 2'),
        model("gemma-3-12b", 11_000),
        model("nomic-embed-text", 900, "min_resident = 1", load_seconds=0.2),
        model("gpt-oss-20b", 15_000),
        model("llama-3.3-70b", 47_000, 'devices = 2\npinned_on = ["attic"]', load_seconds=3),
    )
)
NODES = {
    "attic": devices(("RTX 4090", 24_564), ("RTX 4090", 24_564)),
    "cellar": devices(("RTX 3090", 24_576), ("RTX 3060", 12_288)),
}


def start(fleet: Fleet, config: str = "") -> Daemon:
    """Start two neurons and a gateway that soon notices when one is gone; return the gateway."""
    ports = {name: fleet.neuron(name, config=told).port for name, told in NODES.items()}
    return fleet.gateway(MODELS, ports, config=config + "\n[limits]\npoll_seconds = 0.5\nmisses = 2\n")


def faults(page: Page, axe: str) -> list[str]:
    """Return what axe finds wrong with the page as it is: rule and elements."""
    # Through the debugger: the page's own policy lets no script in.
    page.evaluate(axe)
    found: dict[str, Any] = page.evaluate("rules => axe.run(document, {runOnly: {type: 'tag', values: rules}})", RULES)
    return [f"{each['id']}: {[node['html'][:160] for node in each['nodes'][:3]]}" for each in found["violations"]]


def overflows(page: Page) -> bool:
    """Whether the page is wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
