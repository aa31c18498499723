"""Image URLs of chat requests, where the operator allows them: found, fetched from the public internet, put inline."""

from __future__ import annotations

import asyncio
import base64
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import groupby
from operator import attrgetter
from socket import SOCK_STREAM
from ssl import SSLContext
from typing import Any

import anyio
import httpx2
import msgspec

from cortex.core.errors import BadRequest
from cortex.serving.head import MAX_BODY_BYTES
from cortex.wire import json
from cortex.wire.images import CODE, check_image, is_public
from cortex.wire.openai import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, ImageUrl, Message, Part

CONCURRENT_FETCHES = 4
MAX_URLS = 100
MAX_ADDRESSES = 4

Address = IPv4Address | IPv6Address
Resolve = Callable[[str], Awaitable[Sequence[Address]]]

_KIND = re.compile(r"image/[a-z0-9.+-]{1,40}")
_NOT_PUBLIC = "the URL's host is not on the public internet"
# One text for whatever another server answers: what it said is not for a client that cannot ask it itself.
_NO_IMAGE = "the URL does not answer with an image; redirects are not followed"


class _Chat(msgspec.Struct):
    messages: list[Message] = []


_chat = msgspec.json.Decoder(_Chat)
_items = msgspec.json.Decoder(list[msgspec.Raw])
_fields = msgspec.json.Decoder(json.Fields)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chat body has the URL of an image that is not inline."""

    message: int
    part: int
    url: str

    @property
    def name(self) -> str:
        """The place as an error names it."""
        return f"messages[{self.message}].content[{self.part}].image_url"


def find_urls(body: bytes) -> tuple[Place, ...]:
    """Return the image URLs of the chat *body* but `data:` ones, in order; none if others will refuse it anyway."""
    if b'"image_url"' not in body or b"http" not in body:
        return ()
    try:
        messages = _chat.decode(body).messages
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()
    return tuple(
        Place(at, index, url)
        for at, message in enumerate(messages)
        if isinstance(message.content, list)
        for index, part in enumerate(message.content)
        if (url := _url_of(part)) is not None and url[:5].lower() != "data:"
    )


def with_images(body: bytes, places: Sequence[Place], images: Mapping[str, str]) -> bytes:
    """Return the chat *body* with *images*, by URL, at *places*, in order; what is beside them stays as sent."""
    fields: dict[str, Any] = {**json.fields_of(body)}
    messages: list[Any] = [*_items.decode(fields["messages"])]
    for at, inside in groupby(places, key=attrgetter("message")):
        message: dict[str, Any] = {**_fields.decode(messages[at])}
        content: list[Any] = [*_items.decode(message["content"])]
        for place in inside:
            content[place.part] = _with_url(content[place.part], images[place.url])
        messages[at] = {**message, "content": content}
    return json.encode({**fields, "messages": messages})


class ImageFetcher:
    """Fetches images, each of at most *max_bytes* within *timeout_seconds*, from addresses that are *allowed*.

    A name is resolved once, by *resolve*, and what was checked is what is connected to. Proxies of the environment are
    not used.
    """

    def __init__(
        self,
        max_bytes: int,
        timeout_seconds: float,
        *,
        allowed: Callable[[Address], bool] = is_public,
        resolve: Resolve | None = None,
        tls: SSLContext | None = None,
    ) -> None:
        self._max_bytes, self._timeout_seconds = max_bytes, timeout_seconds
        self._allowed, self._resolve = allowed, resolve or _look_up
        self._tls = tls or httpx2.create_ssl_context(trust_env=False)

    async def inline(self, body: bytes) -> bytes:
        """Return the chat *body* with its images inline. Raises BadRequest naming the part that is wrong."""
        places = find_urls(body)
        if not places:
            return body
        for place in places:
            _check(place.url, place.name)
        if len({place.url for place in places}) > MAX_URLS:
            raise BadRequest(f"messages: more than {MAX_URLS} images are to be fetched", param="messages", code=CODE)
        return with_images(body, places, await self._fetch_all(places, MAX_BODY_BYTES - len(body)))

    async def _fetch_all(self, places: Sequence[Place], room_bytes: int) -> dict[str, str]:
        """Return the images by URL, each fetched once; all their places together have *room_bytes*."""
        uses = Counter(place.url for place in places)
        names = {place.url: place.name for place in reversed(places)}
        gate, images, refusals = asyncio.Semaphore(CONCURRENT_FETCHES), dict[str, str](), list[BadRequest]()

        async def fetch(url: str) -> None:
            nonlocal room_bytes
            try:
                async with gate:
                    images[url] = await self._fetch(url, names[url])
                room_bytes -= len(images[url]) * uses[url]
                if room_bytes < 0:
                    raise _refused(names[url], f"with this image the request is larger than {MAX_BODY_BYTES} bytes")
            except BadRequest as refusal:
                refusals.append(refusal)
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for url in uses:
                tasks.start_soon(fetch, url)
        if refusals:
            raise refusals[0]
        return images

    async def _fetch(self, url: str, name: str) -> str:
        """Return the image at *url* as a `data:` URL that an engine may have. Raises BadRequest."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                kind, data = await self._get(httpx2.URL(url), name)
        except TimeoutError:
            raise _refused(name, f"the image was not there within {self._timeout_seconds:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError):
            raise _refused(name, _NO_IMAGE) from None
        image = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        _check(image, name)
        return image

    async def _get(self, url: httpx2.URL, name: str) -> tuple[str, bytes]:
        """Return the kind and the bytes of what is at *url*. Raises BadRequest, OSError, httpx2.HTTPError."""
        addresses = await self._addresses(url.host, name)
        # The transport alone: a client would follow cookies and proxies, and log whole URLs.
        async with httpx2.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
            response = await _ask(transport, url, addresses)
            try:
                return _kind_of(response, name), await self._read(response, name)
            finally:
                await response.aclose()

    async def _addresses(self, host: str, name: str) -> Sequence[Address]:
        """Return where *host* is. A name that does not exist is refused as one inside is: neither is told."""
        try:
            addresses = await self._resolve(host)
        except OSError:
            addresses = ()
        if not addresses or not all(self._allowed(address) for address in addresses):
            raise _refused(name, _NOT_PUBLIC)
        return addresses[:MAX_ADDRESSES]

    async def _read(self, response: httpx2.Response, name: str) -> bytes:
        data = bytearray()
        async for piece in response.aiter_raw():
            data += piece
            if len(data) > self._max_bytes:
                raise _refused(name, f"the image is larger than {self._max_bytes} bytes")
        return bytes(data)


async def _look_up(host: str) -> Sequence[Address]:
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=SOCK_STREAM)
    return [ip_address(address[0]) for *_, address in found]


async def _ask(transport: httpx2.AsyncHTTPTransport, url: httpx2.URL, addresses: Sequence[Address]) -> httpx2.Response:
    """Return the answer from the first of *addresses* that takes a connection. Raises httpx2.HTTPError."""
    for address in addresses[:-1]:
        try:
            return await transport.handle_async_request(_request(url, address))
        except httpx2.ConnectError:
            continue
    return await transport.handle_async_request(_request(url, addresses[-1]))


def _request(url: httpx2.URL, address: Address) -> httpx2.Request:
    """Return the request for *url* that goes to *address*; name and certificate are those of the URL's host."""
    headers = {"host": url.netloc.decode(), "accept": "image/*", "accept-encoding": "identity", "connection": "close"}
    extensions = {"sni_hostname": url.host}
    return httpx2.Request("GET", url.copy_with(host=str(address)), headers=headers, extensions=extensions)


def _kind_of(response: httpx2.Response, name: str) -> str:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    plain = response.headers.get("content-encoding", "identity").lower() == "identity"
    if response.status_code != 200 or not plain or _KIND.fullmatch(kind) is None:
        raise _refused(name, _NO_IMAGE)
    return str(kind)


def _url_of(part: Part) -> str | None:
    if part.type != "image_url":
        return None
    return part.image_url.url if isinstance(part.image_url, ImageUrl) else part.image_url


def _with_url(part: msgspec.Raw, url: str) -> dict[str, Any]:
    fields: dict[str, Any] = {**_fields.decode(part)}
    given = fields["image_url"]
    inside = {**_fields.decode(given), "url": url} if bytes(given).startswith(b"{") else url
    return {**fields, "image_url": inside}


def _check(url: str, name: str) -> None:
    check_image(url, part=name, allow_urls=True, max_pixels=MAX_IMAGE_PIXELS, max_bytes=MAX_IMAGE_BYTES)


def _refused(name: str, why: str) -> BadRequest:
    return BadRequest(f"{name}: {why}", param=name, code=CODE)
