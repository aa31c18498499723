"""Decide whether a request may come from where it says: a web page must not reach a server here through its visitor.

A page can have its own name resolve to this machine (DNS rebinding); then the browser sends that name as `Host`. Or it
can address the server outright; then the browser sends its `Origin`. Neither can be forged by a page. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from cortex.core.errors import BadRequest, CortexError, PermissionDenied

ANY_HOST = "*"


def check_origin(
    host_header: str | None, origin: str | None, listen: str, allowed_hosts: Collection[str]
) -> CortexError | None:
    """Return why a request with these headers is refused, or None.

    *listen* is the host that is listened on. A loopback listener answers to `localhost` and loopback addresses, any
    other to each address, since a page cannot rebind one; both answer to the names in *allowed_hosts* (`*.name` means
    all below it, `*` any). A `Host` is missing only from clients of HTTP/1.0, which are no browsers.

    An `Origin` must be this very host. One of another scheme than http is an installed program's and passes; `null`,
    which any page can make, does not.
    """
    if host_header is None:
        return None if origin is None else BadRequest("an Origin without a Host")
    host, port = _split(host_header)
    if host is None:
        return BadRequest(f"Host: {host_header[:100]!r} is not a host")
    if not _is_ours(host, listen, allowed_hosts):
        message = f"Host: {host[:100]!r} is not a name of this server; if it is, add it to allowed_hosts"
        return PermissionDenied(message, code="host_not_allowed")
    if origin is not None and not _is_same(origin, host, port):
        message = f"Origin: {origin[:100]!r} is another site; requests from its pages are refused"
        return PermissionDenied(message, code="origin_not_allowed")
    return None


def is_loopback(host: str) -> bool:
    """Whether *host*, a name or an address, is this machine and reachable from nowhere else."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _is_ours(host: str, listen: str, allowed_hosts: Collection[str]) -> bool:
    if is_loopback(host) or (_address(host) is not None and not is_loopback(listen)):
        return True
    return any(_matches(host, allowed.lower()) for allowed in allowed_hosts)


def _matches(host: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return host.endswith(allowed[1:])
    return allowed in (ANY_HOST, host)


def _is_same(origin: str, host: str, port: int | None) -> bool:
    try:
        url = urlsplit(origin)
        origin_port = url.port
    except ValueError:
        return False
    scheme = url.scheme.lower()
    if scheme not in ("http", "https"):
        return bool(scheme) and bool(url.netloc)
    default = 443 if scheme == "https" else 80
    return url.hostname == host and (origin_port or default) == (port or default)


def _split(host_header: str) -> tuple[str | None, int | None]:
    """Return host, in lower case and without brackets, and port; no host if it is malformed."""
    if not host_header.isprintable() or any(c in host_header for c in " /\\@?#,"):
        return None, None
    try:
        url = urlsplit(f"//{host_header}")
        return url.hostname or None, url.port
    except ValueError:
        return None, None


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None
