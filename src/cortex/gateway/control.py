"""Control calls to nodes: short JSON both ways, whole answers, over the same kind of connections as the data path.

A load holds its connection for as long as it takes, so control calls have a `Pool` of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from cortex.core.errors import UpstreamFailed, UpstreamTimeout
from cortex.gateway.upstream import Address, Connection, Pool
from cortex.wire.errors import error_from
from cortex.wire.node_auth import header_line

MAX_ANSWER_BYTES = 8 << 20


class NodeRefuses(UpstreamFailed):
    """The node answers, and will not have us: its token or its names are not what we think they are."""

    code = "node_refuses"


@dataclass(slots=True)
class Answer:
    """A node's answer, whole; the names of headers are lower case."""

    status: int = 0
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Take the status and the headers."""
        self.status, self.headers = status, headers

    def on_data(self, data: bytes) -> None:
        """Take a piece of the body. Raises UpstreamFailed when it is too large for any answer of a node."""
        if len(self.body) + len(data) > MAX_ANSWER_BYTES:
            raise UpstreamFailed("the node's answer is too large", code="upstream_malformed_response")
        self.body += data


class Control:
    """Calls to nodes over *pool*, which nothing else may use, signed with the nodes' *token* if they have one."""

    def __init__(self, pool: Pool, token: str | None = None) -> None:
        self._pool, self._signature = pool, header_line(token)

    async def get(self, address: Address, path: str, timeout_seconds: float) -> bytes:
        """Return the body that the node at *address* answers at *path*.

        Raises UpstreamTimeout after *timeout_seconds* in all, NodeRefuses when the node does not take it from us,
        UpstreamFailed when the connection breaks or the status is not 200; redirects are not followed.
        """
        request = f"GET {path} HTTP/1.1\r\nhost: {_host(address)}\r\n{self._signature}\r\n".encode()
        try:
            async with asyncio.timeout(timeout_seconds):
                answer = await self._ask_again_if_stale(address, request)
        except TimeoutError:
            raise _late(path, timeout_seconds) from None
        self._check(answer)
        if answer.status != 200:
            reason = f"{path} answered HTTP {answer.status}"
            raise UpstreamFailed(reason, code="upstream_malformed_response")
        return answer.body

    async def post(
        self, address: Address, path: str, body: bytes, timeout_seconds: float | None, request_id: str = ""
    ) -> Answer:
        """Return what the node at *address* answers to the JSON *body*, whatever the status.

        The connection is a new one, so that a failure is never that of a stale one, and no order is given twice.
        Raises UpstreamTimeout after *timeout_seconds* in all (None: never), NodeRefuses when the node does not take it
        from us, UpstreamFailed when the connection breaks.
        """
        told = f"x-request-id: {request_id}\r\n" if request_id else ""
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {_host(address)}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n{self._signature}{told}\r\n"
        )
        try:
            async with asyncio.timeout(timeout_seconds):
                answer = await self._exchange_once(address, head.encode() + body)
        except TimeoutError:
            raise _late(path, timeout_seconds or 0.0) from None
        self._check(answer)
        return answer

    def drop(self, address: Address) -> None:
        """Fail every call to a node that is taken for dead, at once."""
        self._pool.drop(address)

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    def _check(self, answer: Answer) -> None:
        """Raise NodeRefuses if the node does not know us, or not by the name that we call it."""
        if answer.status == 401:
            raise NodeRefuses("refuses our token" if self._signature else "wants a token, and we have none")
        if answer.status == 403:
            raise NodeRefuses(f"refuses us: {error_from(answer.status, answer.body)}")

    async def _ask_again_if_stale(self, address: Address, request: bytes) -> Answer:
        connection = await self._pool.take(address)
        reused = connection.used
        try:
            return await self._exchange(connection, address, request)
        except UpstreamFailed:
            if not reused:
                raise
            return await self._exchange(await self._pool.fresh(address), address, request)

    async def _exchange_once(self, address: Address, request: bytes) -> Answer:
        connection = await self._pool.fresh(address)
        answer = Answer()
        try:
            await connection.exchange(request, answer, None)
        finally:
            connection.abort()
            self._pool.give_back(address, connection)
        return answer

    async def _exchange(self, connection: Connection, address: Address, request: bytes) -> Answer:
        answer = Answer()
        try:
            await connection.exchange(request, answer, None)
        finally:
            self._pool.give_back(address, connection)
        return answer


def _host(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _late(path: str, seconds: float) -> UpstreamTimeout:
    return UpstreamTimeout(f"{path} was not answered within {seconds:g} s")
