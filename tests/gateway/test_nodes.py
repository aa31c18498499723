from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cortex.core.errors import BadRequest, ConfigError, RouteNotFound, ServiceError
from cortex.gateway.config import NeuronAddress
from cortex.gateway.nodes import FILE, Nodes


def at(name: str, port: int = 1) -> NeuronAddress:
    return NeuronAddress(name=name, endpoint=f"http://{name}:{port}")


def names(nodes: Nodes) -> list[str]:
    return [node.name for node in nodes.addresses]


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    """One node of the configuration, and one that an operator added."""
    nodes = Nodes([at("attic")], tmp_path)
    nodes.add("cellar", "http://cellar:1")
    return nodes


def test_without_a_file_there_are_the_nodes_of_the_configuration(tmp_path: Path) -> None:
    nodes = Nodes([at("attic"), at("cellar")], tmp_path / "not" / "there")

    assert (names(nodes), nodes.drained) == (["attic", "cellar"], frozenset())
    assert list(tmp_path.iterdir()) == [], "nothing was said, so nothing is kept"


def test_what_operators_said_outlives_the_gateway(nodes: Nodes, tmp_path: Path) -> None:
    nodes.drain("attic")
    nodes.drain("cellar")
    again = Nodes([at("attic")], tmp_path)

    assert again.addresses == (at("attic"), at("cellar"))
    assert again.drained == {"attic", "cellar"}


def test_only_this_user_reads_the_file_and_its_directory(tmp_path: Path) -> None:
    Nodes([], tmp_path / "state").add("cellar", "http://cellar:1")

    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state", tmp_path / "state" / FILE)]
    assert modes == [0o700, 0o600]
    assert [path.name for path in (tmp_path / "state").iterdir()] == [FILE], "no draft is left behind"


def test_a_node_that_was_removed_is_gone_and_so_is_its_mark(nodes: Nodes, tmp_path: Path) -> None:
    nodes.drain("cellar")
    nodes.remove("cellar")
    nodes.add("cellar", "http://cellar:2")

    assert (names(Nodes([], tmp_path)), Nodes([at("cellar")], tmp_path).drained) == (["cellar"], frozenset())


def test_a_node_of_the_configuration_is_removed_there_and_nowhere_else(nodes: Nodes) -> None:
    with pytest.raises(BadRequest, match="'attic' is in the configuration file: take it out there, or drain it"):
        nodes.remove("attic")

    assert names(nodes) == ["attic", "cellar"]


def test_draining_and_undraining_may_be_said_twice(nodes: Nodes, tmp_path: Path) -> None:
    nodes.drain("attic")
    nodes.drain("attic")
    assert Nodes([at("attic")], tmp_path).drained == {"attic"}

    nodes.undrain("attic")
    nodes.undrain("attic")
    assert Nodes([at("attic")], tmp_path).drained == frozenset()


@pytest.mark.parametrize("act", ["remove", "drain", "undrain"])
def test_a_node_that_is_not_there_is_named_beside_those_that_are(nodes: Nodes, act: str) -> None:
    with pytest.raises(RouteNotFound, match="no node 'garage'; there are attic, cellar") as caught:
        getattr(nodes, act)("garage")

    assert (caught.value.status, caught.value.code) == (404, "node_not_found")


def test_adding_the_same_node_again_is_no_mistake(nodes: Nodes) -> None:
    assert nodes.add("cellar", "http://cellar:1/") == at("cellar")
    assert nodes.add("attic", "http://attic:1") == at("attic")
    assert names(nodes) == ["attic", "cellar"]


@pytest.mark.parametrize(
    ("name", "endpoint", "param", "said"),
    [
        ("cellar", "http://other:1", "name", "node 'cellar' is at http://cellar:1; remove it first"),
        ("attic", "http://other:1", "name", "node 'attic' is at http://attic:1; remove it first"),
        ("other", "http://attic:1", "endpoint", "http://attic:1 is node 'attic' already"),
        ("../x", "http://x:1", "name", "name '../x': expected up to 63 letters"),
        ("", "http://x:1", "name", "name '': expected"),
        ("x", "x:1", "endpoint", "endpoint 'x:1': expected http://host:port"),
        ("x", "https://x:1", "endpoint", "expected http://host:port"),
        ("x", "http://x:1/v1", "endpoint", "expected http://host:port"),
        ("x", "http://user:secret@x:1", "endpoint", "expected http://host:port"),
    ],
)
def test_a_node_that_cannot_be_added_says_why(nodes: Nodes, name: str, endpoint: str, param: str, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        nodes.add(name, endpoint)

    assert caught.value.param == param
    assert said in str(caught.value)
    assert names(nodes) == ["attic", "cellar"]


def test_an_edit_of_the_configuration_keeps_what_was_added_and_what_was_drained(nodes: Nodes) -> None:
    nodes.drain("attic")
    nodes.configure([at("garage")])
    assert (names(nodes), nodes.drained) == (["garage", "cellar"], frozenset())

    nodes.configure([at("garage"), at("attic")])
    assert nodes.drained == {"attic"}, "it was taken out of service, and nobody put it back"


def test_the_configuration_s_word_on_an_address_is_the_last(nodes: Nodes) -> None:
    with capture_logs() as logs:
        nodes.configure([at("attic"), at("cellar", 2)])

    assert nodes.addresses == (at("attic"), at("cellar", 2))
    assert [(line["event"], line["node"]) for line in logs] == [("added_node_is_configured", "cellar")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"added": [{"name": "x"}]}',
        b'{"added": [{"name": "../x", "endpoint": "http://x:1"}]}',
        b'{"drained": "x"}',
        b'{"drained": ["\xff"]}',
        b'{"dained": []}',
    ],
    ids=["empty", "half", "list", "no endpoint", "name", "text", "utf8", "unknown key"],
)
def test_a_broken_file_is_refused_by_name_with_what_to_do_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        Nodes([], tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / FILE}: ")
    assert "repair it, or delete it to forget which nodes were added and drained" in str(caught.value)
    assert (tmp_path / FILE).read_bytes() == content


@pytest.mark.parametrize(
    "act",
    [lambda nodes: nodes.add("x", "http://x:1"), lambda nodes: nodes.remove("cellar"), lambda n: n.drain("attic")],
)
def test_what_cannot_be_kept_is_refused_and_not_believed(nodes: Nodes, tmp_path: Path, act: Any) -> None:
    before = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).with_suffix(".new").mkdir()

    with pytest.raises(ServiceError, match=r"nodes\.json cannot be written: ") as caught:
        act(nodes)
    assert caught.value.code == "state_not_kept"
    assert (names(nodes), nodes.drained) == (["attic", "cellar"], frozenset())
    assert (tmp_path / FILE).read_bytes() == before


def test_a_crash_in_the_middle_of_writing_costs_nothing(nodes: Nodes, tmp_path: Path) -> None:
    """The draft of a gateway that died is overwritten by the next one."""
    (tmp_path / FILE).with_suffix(".new").write_bytes(b'{"added": [{"na')

    again = Nodes([at("attic")], tmp_path)
    again.drain("attic")
    assert json.loads((tmp_path / FILE).read_bytes())["drained"] == ["attic"]


def test_what_is_done_is_logged(tmp_path: Path) -> None:
    with capture_logs() as logs:
        nodes = Nodes([], tmp_path)
        nodes.add("x", "http://x:1")
        nodes.drain("x")
        nodes.undrain("x")
        nodes.remove("x")

    assert [line["event"] for line in logs] == ["node_added", "node_drained", "node_undrained", "node_removed"]
