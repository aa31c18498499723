"""Announce the gateway by mDNS where it listens, and only for as long as somebody is invited."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING

import anyio
import psutil  # type: ignore[import-untyped]

from cortex.core.errors import ConfigError
from cortex.core.extras import check_extra
from cortex.core.logging import get_logger
from cortex.gateway.joining.joining import Joining
from cortex.wire.joining import FINGERPRINT_KEY, SERVICE_TYPE

if TYPE_CHECKING:
    from zeroconf import ServiceInfo

log = get_logger(__name__)

NEEDED = ("zeroconf",)
CLOSE_SECONDS = 2.0


class Announcer:
    """Owns the announcement of what *joining* lets in at *host* and *port*. `clock` tells the seconds since 1970."""

    def __init__(self, joining: Joining, host: str, port: int, clock: Callable[[], float] = time.time) -> None:
        self._joining, self._host, self._port, self._clock = joining, host, port, clock

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            while self._joining.open_until <= self._clock():
                await self._joining.changed.wait()
            try:
                async with self._announced():
                    await self._until_nobody_is_invited()
            except (OSError, ConfigError) as error:
                log.warning("not_announced", reason=str(error), remedy="name the gateway's address to `neuron join`")
                await self._until_nobody_is_invited()

    async def _until_nobody_is_invited(self) -> None:
        while (left := self._joining.open_until - self._clock()) > 0:
            with anyio.move_on_after(left):
                await self._joining.changed.wait()

    @asynccontextmanager
    async def _announced(self) -> AsyncGenerator[None, None]:
        check_extra("join", NEEDED, "an announcement by mDNS")
        from zeroconf import Error
        from zeroconf.asyncio import AsyncZeroconf

        addresses = addresses_of(self._host)
        info = service_info(socket.gethostname(), addresses, self._port, self._joining.fingerprint)
        zeroconf = AsyncZeroconf(interfaces=addresses)
        try:
            await (await zeroconf.async_register_service(info, allow_name_change=True))
            log.info("announced", name=info.name, addresses=addresses, port=self._port)
            yield
        except Error as error:
            raise OSError(f"mDNS: {error!r}") from None
        finally:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await zeroconf.async_unregister_all_services()
                await zeroconf.async_close()


def service_info(machine: str, addresses: list[str], port: int, fingerprint: bytes) -> ServiceInfo:
    """Return what is announced of the gateway on *machine*; its name there is none that the machine itself has."""
    from zeroconf import ServiceInfo

    own = f"{machine.partition('.')[0][:40]}-{fingerprint.hex()[:8]}"
    return ServiceInfo(
        SERVICE_TYPE,
        f"{own}.{SERVICE_TYPE}",
        port=port,
        parsed_addresses=addresses,
        properties={FINGERPRINT_KEY: fingerprint.hex()},
        server=f"{own}.local.",
    )


def addresses_of(host: str) -> list[str]:
    """Return the addresses at which others find what listens on *host*. Raises OSError when it cannot be resolved."""
    address = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    if not ip_address(address).is_unspecified:
        return [address]
    own = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries if _is_ipv4(entry.family)]
    return [found for found in own if not ip_address(found).is_loopback]


def _is_ipv4(family: int) -> bool:
    return family == socket.AF_INET
