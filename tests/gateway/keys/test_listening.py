from __future__ import annotations

import pytest

from cortex.core.errors import ConfigError
from cortex.gateway.keys.listening import Auth, listening_is_safe


@pytest.mark.parametrize(
    ("host", "has_keys", "auth"),
    [
        ("127.0.0.1", False, "auto"),
        ("localhost", False, "auto"),
        ("::1", False, "auto"),
        ("127.8.9.1", False, "none"),
        ("127.0.0.1", True, "auto"),
        ("0.0.0.0", True, "auto"),
        ("::", True, "keys"),
        ("gpu-box", True, "keys"),
    ],
)
def test_with_keys_or_for_this_machine_alone_it_may_listen(host: str, has_keys: bool, auth: Auth) -> None:
    assert listening_is_safe(host, has_keys, auth) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "gpu-box", ""])
def test_without_keys_it_does_not_listen_where_others_can_connect(host: str) -> None:
    error = listening_is_safe(host, False, "auto")

    assert isinstance(error, ConfigError)
    assert "cortex key create" in error.message
    assert 'auth = "none"' in error.message


def test_who_wants_everybody_in_says_so_and_is_warned() -> None:
    warning = listening_is_safe("0.0.0.0", False, "none")

    assert isinstance(warning, str)
    assert "anybody who reaches 0.0.0.0" in warning


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_keys_that_nobody_asks_for_are_worth_a_warning(host: str) -> None:
    warning = listening_is_safe(host, True, "none")

    assert isinstance(warning, str)
    assert "not asked for" in warning


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_who_insists_on_keys_must_have_some(host: str) -> None:
    assert isinstance(listening_is_safe(host, False, "keys"), ConfigError)
