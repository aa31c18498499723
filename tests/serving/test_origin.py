from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import BadRequest, CortexError, PermissionDenied
from cortex.serving.origin import check_origin, is_loopback

LOOPBACK, LAN = "127.0.0.1", "0.0.0.0"


def code_of(error: CortexError | None) -> str | None:
    return error.code if error is not None else None


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:31313", "127.0.0.1", "127.0.0.1:1", "127.9.8.7", "[::1]", "[::1]:31313", "::1", None],
)
def test_a_loopback_listener_answers_to_this_machine(host: str | None) -> None:
    if host == "::1":
        assert isinstance(check_origin(host, None, LOOPBACK, ()), BadRequest)
    else:
        assert check_origin(host, None, LOOPBACK, ()) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:31313",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil-localhost",
        "192.168.1.4",
        "[fe80::1]",
        "0x7f.1",
        "2130706433",
        "localhost.",
    ],
)
def test_a_name_that_a_page_brought_along_is_refused(host: str) -> None:
    error = check_origin(host, None, LOOPBACK, ("gpu-box",))

    assert isinstance(error, PermissionDenied)
    assert code_of(error) == "host_not_allowed"
    assert "add it to allowed_hosts" in error.message


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":80",
        "a b",
        "a@localhost",
        "localhost/x",
        "localhost\\x",
        "localhost,evil",
        "localhost:port",
        "[::1",
        "a\r\nb",
    ],
)
def test_a_malformed_host_is_a_bad_request(host: str) -> None:
    assert isinstance(check_origin(host, None, LOOPBACK, ("*",)), BadRequest)


@pytest.mark.parametrize(
    ("host", "allowed_hosts", "allowed"),
    [
        ("gpu-box:31313", ("gpu-box",), True),
        ("GPU-box", ("gpu-BOX",), True),
        ("gpu-box.lan", ("gpu-box",), False),
        ("a.example.org", ("*.example.org",), True),
        ("example.org", ("*.example.org",), False),
        ("evilexample.org", ("*.example.org",), False),
        ("anything", ("*",), True),
        ("192.168.1.4:80", (), True),
        ("[fd00::4]:80", (), True),
        ("localhost", (), True),
        ("evil.example", (), False),
    ],
)
def test_another_listener_answers_to_addresses_and_to_its_names(
    host: str, allowed_hosts: tuple[str, ...], allowed: bool
) -> None:
    assert (check_origin(host, None, LAN, allowed_hosts) is None) == allowed


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:31313", "localhost:31313"),
        ("http://LOCALHOST:31313", "localhost:31313"),
        ("http://127.0.0.1", "127.0.0.1"),
        ("http://127.0.0.1:80", "127.0.0.1"),
        ("https://localhost", "localhost"),
        ("http://[::1]:31313", "[::1]:31313"),
        ("vscode-webview://1abc", "localhost:31313"),
        ("tauri://localhost", "localhost:31313"),
    ],
)
def test_its_own_pages_and_installed_programs_may_ask(origin: str, host: str) -> None:
    assert check_origin(host, origin, LOOPBACK, ()) is None


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://localhost",
        "http://localhost:3000",
        "https://localhost:31313.evil.example",
        "http://localhost:31313@evil.example",
        "http://127.0.0.1:31313",
        "null",
        "",
        "//localhost:31313",
        "file://",
        "http://localhost:port",
        "http://[::1",
    ],
)
def test_the_pages_of_others_may_not(origin: str) -> None:
    assert code_of(check_origin("localhost:31313", origin, LOOPBACK, ("*",))) == "origin_not_allowed"


def test_an_origin_without_a_host_is_no_browsers() -> None:
    assert isinstance(check_origin(None, "http://localhost", LOOPBACK, ()), BadRequest)


@given(st.text(max_size=30), st.none() | st.text(max_size=30))
def test_no_header_breaks_the_check(host: str, origin: str | None) -> None:
    error = check_origin(host, origin, LOOPBACK, ())

    assert error is None or isinstance(error, (BadRequest, PermissionDenied))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("x", False),
    ],
)
def test_loopback_is_told_by_name_and_address(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
