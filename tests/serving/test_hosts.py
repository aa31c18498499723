from __future__ import annotations

import pytest

from cortex.core.errors import CortexError
from cortex.serving.exchange import Exchange
from cortex.serving.head import Head
from cortex.serving.hosts import MAX_REMEMBERED, HostCheck, own_names


def judged(check: HostCheck, host: str, origin: str | None = None) -> str | None:
    """Return the code that refuses a request with these headers, or None."""
    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin else [])]
    try:
        check(Exchange(None, Head("GET", "/", headers=headers), b"", "r"))  # type: ignore[arg-type]
    except CortexError as error:
        return error.code
    return None


def test_what_passed_once_passes_again_and_what_did_not_does_not() -> None:
    check = HostCheck("127.0.0.1", ("attic",))
    for _ in range(2):
        assert judged(check, "attic:1") is None
        assert judged(check, "attic:1", "http://attic:1") is None
        assert judged(check, "attic:1", "http://evil") == "origin_not_allowed"
        assert judged(check, "evil:1") == "host_not_allowed"


def test_a_listener_goes_by_the_name_that_it_listens_on() -> None:
    assert judged(HostCheck("attic.lan", ()), "attic.lan:1") is None


def test_no_more_is_remembered_than_there_is_room_for() -> None:
    check = HostCheck("127.0.0.1", ("*",))
    for number in range(3 * MAX_REMEMBERED):
        assert judged(check, f"h{number}") is None

    assert len(check._passed) <= MAX_REMEMBERED


def test_a_machine_goes_by_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Attic.lan")

    assert own_names() == ("attic.lan", "attic", "attic.local")
