from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import BadRequest
from cortex.core.model_spec import ModelSpec
from cortex.fleet.view import FleetView, NodeView, ReplicaView
from cortex.gateway.catalogue import Catalogue
from cortex.gateway.listing import list_models as listing
from cortex.wire.ollama import list_models, list_running, plain_name, show_model, shown_model, version
from cortex.wire.ollama.models import tagged_name

CREATED = 1_700_000_000
DETAILS = {
    "parent_model": "",
    "format": "",
    "family": "",
    "families": [],
    "parameter_size": "",
    "quantization_level": "",
}


def entry(name: str = "org/m", **more: Any) -> dict[str, Any]:
    known = {"created": CREATED, "loaded": False, "locations": [], "context_length": None, "capabilities": []}
    return {"id": name, "engine": None, **known, **more}


def location(status: str = "loaded", size_mb: int | None = 100) -> dict[str, Any]:
    return {"node": "n", "status": status, "vram_estimate_mb": size_mb, "error": None}


@pytest.mark.parametrize(
    ("name", "plain"),
    [("m", "m"), ("m:latest", "m"), ("org/m:latest", "org/m"), ("m:q4", "m:q4"), (":latest", ":latest"), ("", "")],
)
def test_the_default_tag_is_no_part_of_a_name(name: str, plain: str) -> None:
    assert plain_name(name) == plain


@pytest.mark.parametrize(
    ("name", "tagged"), [("m", "m:latest"), ("m:q4", "m:q4"), ("host:80/m", "host:80/m:latest"), ("a/b", "a/b:latest")]
)
def test_a_name_is_listed_with_a_tag(name: str, tagged: str) -> None:
    assert tagged_name(name) == tagged


@given(st.text(min_size=1).filter(lambda name: not name.endswith(":latest")))
def test_a_listed_name_means_its_model(name: str) -> None:
    assert plain_name(tagged_name(name)) == name


def test_all_models_are_tags() -> None:
    (model,) = list_models([entry()])["models"]

    assert len(model.pop("digest")) == 64
    assert model == {
        "name": "org/m:latest",
        "model": "org/m:latest",
        "size": 0,
        "details": DETAILS,
        "modified_at": "2023-11-14T22:13:20.000000Z",
    }


def test_digests_tell_models_apart_and_stay() -> None:
    first, second = (list_models([entry("a"), entry("b")])["models"] for _ in range(2))

    assert first == second
    assert len({model["digest"] for model in first}) == 2


def test_what_is_loaded_runs() -> None:
    places = [location(), location("loading", 7), location(size_mb=None), location(size_mb=50)]
    running = list_running([entry("a"), entry("b", loaded=True, locations=places, context_length=4096)])["models"]

    assert [(model["name"], model["size"], model["size_vram"]) for model in running] == [
        ("b:latest", 150 << 20, 150 << 20)
    ]
    assert running[0]["context_length"] == 4096
    assert running[0]["expires_at"] > "2300"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([], ["completion"]),
        (["chat", "completions"], ["completion"]),
        (["chat", "completions", "tools", "vision"], ["completion", "tools", "vision"]),
        (["embeddings"], ["embedding"]),
        (["chat", "reasoning", "new"], ["completion", "thinking"]),
        (["new"], ["completion"]),
    ],
)
def test_capabilities_have_ollamas_names(ours: list[str], theirs: list[str]) -> None:
    assert show_model(entry(capabilities=ours))["capabilities"] == theirs


def test_a_model_is_shown_with_what_is_known_of_it() -> None:
    shown = show_model(entry(context_length=4096, engine="llamacpp"))

    info = shown["model_info"]
    assert info[f"{info['general.architecture']}.context_length"] == 4096
    assert shown["details"] == {**DETAILS, "format": "gguf"}
    assert not any(key.endswith("context_length") for key in show_model(entry())["model_info"])


@pytest.mark.parametrize("body", [b'{"model":"m"}', b'{"name":"m:latest"}', b'{"model":"m","name":"x","verbose":true}'])
def test_the_model_to_show_is_named_by_either_field(body: bytes) -> None:
    assert shown_model(body) == "m"


@pytest.mark.parametrize("body", [b"", b"{}", b'{"model":""}', b'{"model":3}', b"[]"])
def test_a_model_to_show_must_be_named(body: bytes) -> None:
    with pytest.raises(BadRequest):
        shown_model(body)


def test_the_gateways_own_listing_is_understood() -> None:
    replica = ReplicaView("m", "n", "ready", context_tokens=512, capabilities=("chat",), bytes_by_device={0: 3 << 20})
    view = FleetView.of([NodeView("n", "http://n", healthy=True, replicas=(replica,))])
    catalogue = Catalogue([ModelSpec(id="o")])
    entries = listing(catalogue, view, CREATED)

    assert [model["name"] for model in list_models(entries)["models"]] == ["m:latest", "o:latest"]
    assert [(model["name"], model["size_vram"]) for model in list_running(entries)["models"]] == [("m:latest", 3 << 20)]
    assert [show_model(each)["capabilities"] for each in entries] == [["completion"]] * 2


def test_the_version_is_one() -> None:
    assert [part.isdigit() for part in version()["version"].split(".")] == [True] * 3
