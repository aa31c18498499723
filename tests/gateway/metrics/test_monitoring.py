"""The shipped dashboard and alerts ask for what the gateway really exposes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cortex.gateway.metrics.families import FAMILIES
from fake_fleet import FakeFleet, ask

pytestmark = pytest.mark.anyio

MONITORING = Path(__file__).parents[3] / "examples" / "monitoring"
LABELS_OF = {family.name: {*family.labels} for family in FAMILIES}
SERIES = {
    name: (family.name, {*family.labels} | ({"le"} if name.endswith("_bucket") else set()))
    for family in FAMILIES
    for name in (
        [f"{family.name}_bucket", f"{family.name}_sum", f"{family.name}_count"]
        if family.kind == "histogram"
        else [family.exposed]
    )
}
# Of PromQL as much as the files use: selectors with matchers, and groupings.
SELECTOR = re.compile(r"\b(cortex_\w+)(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


def panels() -> list[tuple[str, str, str]]:
    """Each query of the dashboard with its panel's title and its legend."""
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    return [(p["title"], t["expr"], t["legendFormat"]) for p in dashboard["panels"] for t in p["targets"]]


def alerts() -> list[tuple[str, str, str]]:
    """Each rule with its name, its query and all that its texts say."""
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return [(rule["alert"], rule["expr"], json.dumps(rule["annotations"])) for rule in rules]


def wrong(expression: str, texts: str) -> Iterator[str]:
    """Yield what *expression* asks for, or *texts* name, that is not exposed."""
    known: set[str] = set()
    for name, matchers in SELECTOR.findall(expression):
        if name not in SERIES:
            yield f"{name} is not exposed"
            continue
        labels = SERIES[name][1]
        known |= labels
        yield from (f"{name} has no label {label}" for label in set(MATCHER.findall(matchers)) - labels)
    grouped = {label.strip() for group in GROUPING.findall(expression) for label in group.split(",")}
    named = {*re.findall(r"\{\{\s*(\w+)\s*\}\}", texts), *re.findall(r"\$labels\.(\w+)", texts)} - {"instance"}
    yield from (f"nothing here has a label {label}" for label in (grouped | named) - known)
    if grouped:
        yield from (f"the label {label} is summed away" for label in named - grouped)


@pytest.mark.parametrize(("title", "expression", "texts"), [*panels(), *alerts()])
def test_each_query_names_metrics_and_labels_that_there_are(title: str, expression: str, texts: str) -> None:
    assert SELECTOR.search(expression) or expression.startswith("up{"), title
    assert list(wrong(expression, texts)) == []


@pytest.mark.parametrize(
    "expression",
    [
        "cortex_nothing_total",
        'cortex_requests_total{colour="red"}',
        "sum by (device) (cortex_requests_total)",
        "cortex_request_duration_seconds",
    ],
)
def test_the_check_finds_what_is_wrong(expression: str) -> None:
    assert list(wrong(expression, ""))


async def test_all_that_is_asked_for_is_in_a_live_exposition_with_these_labels(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway()
    await gateway.post(ask(stream=True))
    await gateway.post(ask("nope"))
    await gateway.idle()
    text = (await gateway.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    asked = {SERIES[name][0] for _, expression, _ in (*panels(), *alerts()) for name, _ in SELECTOR.findall(expression)}

    assert asked <= families.keys()
    for name, family in families.items():
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == LABELS_OF[name], name
