"""Image URLs in chats: which are found, what a body is afterwards, from where images come, and what is not told."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import ssl
import struct
import subprocess
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cortex.core.errors import BadRequest
from cortex.gateway import images
from cortex.gateway.app import CortexGateway
from cortex.gateway.catalogue import Catalogue
from cortex.gateway.config import GatewayConfig, Images
from cortex.gateway.images import Address, ImageFetcher, Place, find_urls, with_images
from cortex.serving.head import MAX_BODY_BYTES
from cortex.wire.images import is_public
from cortex.wire.openai import CHAT
from fake_fleet import Call, FakeFleet, Gateway, soon

pytestmark = pytest.mark.anyio

HOST = "pictures.example"
LOOPBACK = ip_address("127.0.0.1")
PART = "messages[0].content[0].image_url"


def png(width: int = 4, height: int = 3) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height) + b"\x08\x02\x00\x00\x00 and so on"
    )


def data_url(image: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


def asking(*urls: str) -> bytes:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}).encode()


def urls_in(body: bytes) -> list[str]:
    return [part["image_url"]["url"] for part in json.loads(body)["messages"][0]["content"]]


# finding and putting in place -----------------------------------------------------------------------------------------


def test_urls_are_found_where_a_chat_may_have_images_and_nowhere_else() -> None:
    body = json.dumps(
        {
            "messages": [
                {"role": "system", "content": "http://in.text"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "http://in.text", "image_url": "http://not.one"},
                        {"type": "image_url", "image_url": "http://a.example/1"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                        {"type": "image_url", "image_url": {"url": "ftp://b.example"}},
                    ],
                },
            ]
        }
    ).encode()

    assert find_urls(body) == (Place(1, 1, "http://a.example/1"), Place(1, 3, "ftp://b.example"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'"image_url" http',
        b'{"messages": "image_url http"}',
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://a"}]}, 1]}',
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://\xff"}]}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": null}]}], "x": "http"}',
        b'{"x": "http, image_url", "image_url": ' + b"[" * 5000,
    ],
)
def test_a_body_that_others_refuse_has_none(body: bytes) -> None:
    assert find_urls(body) == ()


def test_what_is_beside_an_image_stays_as_it_was_sent() -> None:
    body = (
        b'{"x": 1.0e2, "messages": [{"role":"user", "content":"\\u00e4"}, {"l": 1e0, "role": "user", "content":'
        b' [{"type":"text","text":"\\u00fc"}, {"k": 1.50, "type":"image_url","image_url":{"detail":"low","url":"http://a"}},'
        b' {"type":"image_url","image_url":"http://b"}]}], "seed": 1e1}'
    )
    changed = with_images(body, find_urls(body), {"http://a": "data:1", "http://b": "data:2"})

    assert changed == (
        b'{"x":1.0e2,"messages":[{"role":"user", "content":"\\u00e4"},{"l":1e0,"role":"user","content":'
        b'[{"type":"text","text":"\\u00fc"},{"k":1.50,"type":"image_url","image_url":{"detail":"low","url":"data:1"}},'
        b'{"type":"image_url","image_url":"data:2"}]}],"seed":1e1}'
    )


# fetching -------------------------------------------------------------------------------------------------------------

Answer = Callable[[Call], Any]


class Pictures:
    """A server of images on loopback, and what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.calls, self.port = answer, list[Call](), 0
        self.now = self.most = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = Call(reader, writer)
        try:
            if await call.read():
                self.calls.append(call)
                self.now += 1
                self.most = max(self.most, self.now)
                await self.answer(call)
        except ConnectionError:
            pass
        finally:
            self.now -= 1
            writer.close()

    def url(self, path: str = "/cat.png") -> str:
        return f"http://{HOST}:{self.port}{path}"


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Pictures, None]:
    pictures = Pictures(answer)
    server = await asyncio.start_server(pictures.connected, "127.0.0.1", 0, ssl=tls)
    pictures.port = server.sockets[0].getsockname()[1]
    try:
        yield pictures
    finally:
        server.close()


async def picture(call: Call) -> None:
    await call.respond(200, png(), content_type="image/png; x=y")


def fetcher(
    *addresses: Address, max_bytes: int = 1 << 20, timeout_seconds: float = 5.0, tls: ssl.SSLContext | None = None
) -> ImageFetcher:
    """Return one that finds every host at *addresses*, loopback unless told otherwise, and allows loopback alone."""

    async def resolve(host: str) -> Sequence[Address]:
        return addresses or (LOOPBACK,)

    return ImageFetcher(
        max_bytes, timeout_seconds, allowed=lambda address: address.is_loopback, resolve=resolve, tls=tls
    )


async def refusal(fetch: ImageFetcher, *urls: str) -> str:
    with pytest.raises(BadRequest) as caught:
        await soon(fetch.inline(asking(*urls)))
    assert caught.value.code == "invalid_image_url"
    assert caught.value.message.startswith(f"{caught.value.param}: ")
    return caught.value.message


async def test_an_image_is_asked_for_by_the_name_of_its_host_and_put_in_place() -> None:
    async with serving(picture) as server:
        body = await soon(fetcher().inline(asking(server.url("/a%20b?c=d#e"))))

    assert urls_in(body) == [data_url(png())]
    (call,) = server.calls
    headers = dict(call.headers)
    assert (call.method, call.path, headers["host"]) == ("GET", "/a%20b?c=d", f"{HOST}:{server.port}")
    assert headers.keys() == {"host", "accept", "accept-encoding", "connection"}


async def test_a_body_without_urls_is_returned_as_it_is() -> None:
    for body in (asking(data_url(png())), b"no json"):
        assert await fetcher().inline(body) is body


async def test_an_image_that_is_named_twice_is_fetched_once() -> None:
    async with serving(picture) as server:
        body = await soon(fetcher().inline(asking(server.url(), data_url(png(9, 9)), server.url())))

    assert urls_in(body) == [data_url(png()), data_url(png(9, 9)), data_url(png())]
    assert len(server.calls) == 1


async def test_several_are_fetched_at_a_time_but_no_more_than_the_bound() -> None:
    full = asyncio.Event()

    async def answer(call: Call) -> None:
        if server.now == images.CONCURRENT_FETCHES:
            full.set()
        await soon(full.wait())
        await picture(call)

    async with serving(answer) as server:
        await soon(fetcher().inline(asking(*(server.url(f"/{n}") for n in range(3 * images.CONCURRENT_FETCHES)))))

    assert server.most == images.CONCURRENT_FETCHES


@pytest.mark.parametrize(
    "inside", ["10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00::1", "64:ff9b::7f00:1"]
)
async def test_a_name_that_leads_inside_is_refused_even_if_it_leads_outside_too(inside: str) -> None:
    """With the real check: nothing is connected to, also not the address that would be allowed."""
    for found in ([ip_address(inside)], [ip_address("8.8.8.8"), ip_address(inside)]):

        async def resolve(_: str, found: Sequence[Address] = found) -> Sequence[Address]:
            return found

        said = await refusal(ImageFetcher(1 << 20, 5.0, resolve=resolve), f"http://{HOST}/x")
        assert said == f"{PART}: the URL's host is not on the public internet"


async def test_a_name_is_looked_up_once_so_that_it_cannot_mean_something_else_later() -> None:
    asked = []

    async def resolve(host: str) -> Sequence[Address]:
        asked.append(host)
        return [LOOPBACK if len(asked) == 1 else ip_address("10.0.0.1")]

    async with serving(picture) as server:
        await soon(
            ImageFetcher(1 << 20, 5.0, allowed=lambda a: a == LOOPBACK, resolve=resolve).inline(asking(server.url()))
        )

    assert asked == [HOST]


async def test_a_name_that_does_not_exist_is_refused_as_one_inside_is() -> None:
    async def resolve(_: str) -> Sequence[Address]:
        raise OSError("no such name")

    said = await refusal(ImageFetcher(1 << 20, 5.0, resolve=resolve), f"http://{HOST}/x")
    assert said == f"{PART}: the URL's host is not on the public internet"


async def test_the_system_s_own_look_up_finds_this_machine_inside() -> None:
    assert not any(address.is_global for address in await images._look_up("localhost"))


@pytest.mark.parametrize("url", ["http://127.0.0.1/x", "http://localhost/x", "http://[::1]/x", "http://u@a.example/x"])
async def test_a_url_that_is_wrong_by_itself_keeps_any_from_being_fetched(url: str) -> None:
    async with serving(picture) as server:
        assert (await refusal(fetcher(), server.url(), url)).startswith("messages[0].content[1].image_url: ")

    assert server.calls == []


async def test_the_next_address_is_tried_when_one_takes_no_connection() -> None:
    async with serving(picture) as server:
        body = await soon(fetcher(ip_address("127.0.0.2"), LOOPBACK).inline(asking(server.url())))

    assert urls_in(body) == [data_url(png())]


async def redirect(call: Call) -> None:
    await call.respond(302, b"", location="http://10.0.0.1/secret")


async def failure(call: Call) -> None:
    await call.respond(500, b"secret", content_type="image/png")


async def page(call: Call) -> None:
    await call.respond(200, b"<html>secret", content_type="text/html")


async def packed(call: Call) -> None:
    await call.respond(200, b"secret", content_type="image/png", content_encoding="gzip")


async def odd_kind(call: Call) -> None:
    await call.respond(200, png(), content_type='image/secret",')


async def nonsense(call: Call) -> None:
    await call.send(b"secret\r\n\r\n")


async def nothing(call: Call) -> None:
    call.hang_up()


async def cut_short(call: Call) -> None:
    await call.respond(200, png(), content_type="image/png", content_length="1000")


@pytest.mark.parametrize("answer", [redirect, failure, page, packed, odd_kind, nonsense, nothing, cut_short])
async def test_whatever_else_a_server_says_is_one_refusal_that_tells_nothing_of_it(answer: Answer) -> None:
    async with serving(answer) as server:
        said = await refusal(fetcher(), server.url())

    assert said == f"{PART}: the URL does not answer with an image; redirects are not followed"
    assert len(server.calls) == 1


async def test_an_image_without_end_is_given_up_at_its_bound() -> None:
    async def endless(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n")
        while True:
            await call.send(bytes(1000))

    async with serving(endless) as server:
        assert "larger than 5000 bytes" in await refusal(fetcher(max_bytes=5000), server.url())


async def test_an_image_of_just_the_bound_is_taken() -> None:
    async with serving(picture) as server:
        await soon(fetcher(max_bytes=len(png())).inline(asking(server.url())))
        assert "larger than" in await refusal(fetcher(max_bytes=len(png()) - 1), server.url())


async def test_an_image_that_comes_too_slowly_is_given_up() -> None:
    async def silent(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n")
        await call.caller_left()

    async with serving(silent) as server:
        assert "not there within 0.05 s" in await refusal(fetcher(timeout_seconds=0.05), server.url())


@pytest.mark.parametrize(("image", "why"), [(png(10_000, 10_000), "pixels"), (b"GIF but not really", "expected a PNG")])
async def test_an_image_is_judged_as_one_that_was_sent(image: bytes, why: str) -> None:
    async with serving(lambda call: call.respond(200, image, content_type="image/png")) as server:
        assert why in await refusal(fetcher(), server.url())


async def test_one_that_fails_ends_the_others_and_is_the_one_that_is_named() -> None:
    left = asyncio.Event()

    async def answer(call: Call) -> None:
        if call.path == "/bad":
            await failure(call)
        else:
            await call.caller_left()
            left.set()

    async with serving(answer) as server:
        assert (await refusal(fetcher(), server.url("/good"), server.url("/bad"))).startswith("messages[0].content[1]")
        await soon(left.wait())


async def test_all_images_together_fit_into_a_request() -> None:
    """One that is repeated counts each time, before any is put in place."""
    image = png() + bytes(1 << 20)
    times = MAX_BODY_BYTES // len(data_url(image)) + 1
    async with serving(lambda call: call.respond(200, image, content_type="image/png")) as server:
        said = await refusal(fetcher(max_bytes=2 << 20), *[server.url()] * times)

    assert f"larger than {MAX_BODY_BYTES} bytes" in said


async def test_a_request_may_have_so_many_fetched_and_no_more() -> None:
    urls = [f"http://{HOST}/{number}" for number in range(images.MAX_URLS + 1)]
    assert "more than 100" in await refusal(fetcher(), *urls)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate for the host, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout k.pem -out c.pem"
    names = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    subprocess.run([*command.split(), *names], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "both.pem").write_text((tmp_path / "k.pem").read_text() + (tmp_path / "c.pem").read_text())
    return tmp_path / "both.pem"


async def test_a_certificate_is_asked_for_and_judged_by_the_host_s_name(certificate: Path) -> None:
    """Not by the address that was connected to."""
    heard = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _, name, __: heard.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with serving(picture, context) as server:
        url = f"https://{HOST}:{server.port}/x"
        body = await soon(fetcher(tls=trusting).inline(asking(url)))
        assert "does not answer" in await refusal(fetcher(tls=trusting), url.replace(HOST, "other.example"))

    assert urls_in(body) == [data_url(png())]
    assert heard == [HOST, "other.example"]


# in the gateway -------------------------------------------------------------------------------------------------------


async def fetching(fleet: FakeFleet) -> Gateway:
    """Start a gateway that may fetch, as `fetcher` does."""
    gateway = await fleet.gateway()
    gateway.cortex.inference._images = fetcher()
    return gateway


async def test_a_node_gets_the_image_in_place_of_its_url(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fetching(fleet)
    async with serving(picture) as server:
        answer = await gateway.post(asking(server.url("/x?token=secret")))

    assert answer.status_code == 200
    assert urls_in(node.asked(CHAT)[0].body) == [data_url(png())]
    assert "secret" not in str(fleet.logs)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_image_is_a_status_and_no_node_is_asked(fleet: FakeFleet, stream: bool) -> None:
    node = await fleet.node()
    gateway = await fetching(fleet)
    async with serving(failure) as server:
        body = json.dumps({**json.loads(asking(server.url("/x?token=secret"))), "stream": stream}).encode()
        answer = await gateway.post(body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, PART)
    assert node.asked(CHAT) == []
    assert "secret" not in str(fleet.logs)


async def test_an_anthropic_client_s_url_is_fetched_too(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fetching(fleet)
    async with serving(picture) as server:
        block = {"type": "image", "source": {"type": "url", "url": server.url()}}
        asked = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": [block]}]}
        await gateway.post(json.dumps(asked).encode(), "/v1/messages")

    assert urls_in(node.asked(CHAT)[0].body) == [data_url(png())]


@pytest.mark.parametrize("allowed", [False, True])
async def test_the_configuration_decides_whether_anything_is_fetched(tmp_path: Path, allowed: bool) -> None:
    config = GatewayConfig(images=Images(allow_urls=allowed, max_bytes="2 KB", timeout_seconds=3))
    cortex = CortexGateway(config, Catalogue(()), tmp_path)
    cortex.responses.close()

    found = cortex.inference._images
    assert (found is not None) == allowed
    assert found is None or (found._max_bytes, found._timeout_seconds, found._allowed) == (2000, 3, is_public)


async def test_without_the_operator_s_word_a_url_goes_on_to_be_refused(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway()
    body = asking("http://a.example/x")
    await gateway.post(body)

    assert node.asked(CHAT)[0].body == body
