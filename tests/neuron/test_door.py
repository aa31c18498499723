from __future__ import annotations

import pytest

from cortex.core.errors import CortexError
from cortex.neuron.door import Door, open_to_others
from cortex.serving.exchange import Exchange
from cortex.serving.head import Head

TOKEN = "the-token-of-all-nodes"
SHOWN = ("authorization", f"Bearer {TOKEN}")


def judged(door: Door, *headers: tuple[str, str], path: str = "/health") -> str | None:
    """Return the code that refuses a request with these headers, or None."""
    raw = [(name.encode(), value.encode()) for name, value in headers]
    try:
        door(Exchange(None, Head("GET", path, headers=raw), b"", "r"))  # type: ignore[arg-type]
    except CortexError as error:
        return error.code
    return None


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/models/load", "/v1/chat/completions", "/nope"])
def test_a_node_with_a_token_has_nothing_to_say_to_those_without(path: str) -> None:
    door = Door("0.0.0.0", TOKEN, None)

    assert judged(door, ("host", "attic:1"), path=path) == "invalid_api_key"
    assert judged(door, ("host", "attic:1"), ("authorization", "Bearer wrong"), path=path) == "invalid_api_key"
    assert judged(door, ("host", "attic:1"), SHOWN, path=path) is None


def test_a_node_without_a_token_lets_everybody_in_by_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "attic")
    door = Door("0.0.0.0", None, None)

    assert judged(door, ("host", "10.0.0.5:13131")) is None
    assert judged(door, ("host", "attic.local:13131")) is None
    assert judged(door, ("host", "evil.example:13131")) == "host_not_allowed"


def test_names_that_its_owner_gives_hold_with_a_token_too() -> None:
    door = Door("0.0.0.0", TOKEN, ["beast.lan"])

    assert judged(door, ("host", "beast.lan:13131"), SHOWN) is None
    assert judged(door, ("host", "evil.example"), SHOWN) == "host_not_allowed"


def test_a_page_is_refused_whatever_it_shows() -> None:
    assert judged(Door("0.0.0.0", TOKEN, None), ("host", "a"), ("origin", "https://b"), SHOWN) == "origin_not_allowed"


@pytest.mark.parametrize(
    ("listen", "token", "is_open"),
    [("0.0.0.0", None, True), ("::", None, True), ("127.0.0.1", None, False), ("0.0.0.0", TOKEN, False)],
)
def test_only_a_token_or_loopback_keeps_others_out(listen: str, token: str | None, is_open: bool) -> None:
    assert open_to_others(listen, token) == is_open
