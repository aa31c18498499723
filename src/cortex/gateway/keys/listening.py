"""Decide whether a gateway may listen where it is told to, with the keys it has. Pure."""

from __future__ import annotations

from typing import Literal

from cortex.core.errors import ConfigError
from cortex.serving.origin import is_loopback

Auth = Literal["auto", "keys", "none"]


def listening_is_safe(host: str, has_keys: bool, auth: Auth) -> ConfigError | str | None:
    """Return the error that stops the start, a warning for the log, or None.

    *auth* is `keys.auth`: `keys` insists on keys, `none` does without them even where others can connect, and
    `auto` wants them only there.
    """
    if auth == "none":
        if has_keys:
            return 'keys.auth = "none": the keys in the key file are not asked for'
        return None if is_loopback(host) else f"anybody who reaches {host} may use this gateway, and administer it"
    if has_keys:
        return None
    if auth == "keys":
        return ConfigError('keys.auth = "keys", and there is no key file: make one with `cortex key create NAME`')
    if is_loopback(host):
        return None
    return ConfigError(
        f"gateway.listen: {host} can be reached from other machines, and there are no keys: make one with "
        '`cortex key create NAME`, or say keys.auth = "none" to let everybody in'
    )
