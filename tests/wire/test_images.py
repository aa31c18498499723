from __future__ import annotations

import base64
import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import BadRequest
from cortex.wire.images import Picture, check_image, is_public

PART = "messages[0].content[1].image_url"


def png(width: int, height: int) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height) + b"\x08\x02\x00\x00\x00 and so on"
    )


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\x00\x00 and so on"


def jpeg(width: int, height: int, before: bytes = b"", frame: int = 0xC2) -> bytes:
    sizes = struct.pack(">HH", height, width)
    return (
        b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(10) + before + bytes([0xFF, frame]) + b"\x00\x11\x08" + sizes + b"\x03"
    )


def webp(kind: bytes, body: bytes) -> bytes:
    return b"RIFF\x40\x00\x00\x00WEBP" + kind + b"\x20\x00\x00\x00" + body + bytes(8)


def lossy(width: int, height: int) -> bytes:
    return webp(b"VP8 ", b"\x10\x20\x00\x9d\x01\x2a" + struct.pack("<HH", width, height))


def lossless(width: int, height: int) -> bytes:
    return webp(b"VP8L", b"\x2f" + struct.pack("<I", width - 1 | (height - 1) << 14) + bytes(5))


def extended(width: int, height: int) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return webp(b"VP8X", bytes(4) + sizes)


def data_url(image: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


def check(url: str, *, allow_urls: bool = False, max_pixels: int = 1 << 24, max_bytes: int = 1 << 20) -> Picture | None:
    return check_image(url, part=PART, allow_urls=allow_urls, max_pixels=max_pixels, max_bytes=max_bytes)


def refusal(url: str, *, allow_urls: bool = False, max_pixels: int = 1 << 24, max_bytes: int = 1 << 20) -> str:
    with pytest.raises(BadRequest) as caught:
        check(url, allow_urls=allow_urls, max_pixels=max_pixels, max_bytes=max_bytes)
    assert (caught.value.param, caught.value.code) == (PART, "invalid_image_url")
    assert caught.value.message.startswith(f"{PART}: ")
    return caught.value.message


KINDS = {
    "PNG": png,
    "GIF": gif,
    "JPEG": jpeg,
    "WebP lossy": lossy,
    "WebP lossless": lossless,
    "WebP extended": extended,
}


@pytest.mark.parametrize("kind", KINDS)
@given(width=st.integers(1, 16_383), height=st.integers(1, 16_383))
def test_an_images_size_is_read_from_its_header(kind: str, width: int, height: int) -> None:
    picture = check(data_url(KINDS[kind](width, height)), max_pixels=1 << 28)

    assert picture == Picture(kind.split()[0], width, height)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_with_too_many_pixels_is_refused_whatever_its_bytes(kind: str) -> None:
    url = data_url(KINDS[kind](16_000, 16_000))

    assert "16000 x 16000 pixels are more than 1000000" in refusal(url, max_pixels=1_000_000)
    assert check(url, max_pixels=16_000 * 16_000)


def test_a_decompression_bomb_is_refused() -> None:
    assert "50000 x 50000" in refusal(data_url(png(50_000, 50_000)))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 65_000])
def test_a_photographs_notes_before_its_frame_are_passed_over(size: int) -> None:
    notes = b"\xff\xff\xff\xe1" + struct.pack(">H", size + 2) + b"\xff\xc0" * (size // 2) + b"x" * (size % 2)

    assert check(data_url(jpeg(640, 480, notes * 3))) == Picture("JPEG", 640, 480)


@pytest.mark.parametrize(
    ("kind", "header_bytes"),
    [("PNG", 24), ("GIF", 12), ("JPEG", 29), ("WebP lossy", 30), ("WebP lossless", 30), ("WebP extended", 30)],
)
def test_an_image_cut_anywhere_in_its_header_is_refused(kind: str, header_bytes: int) -> None:
    whole = KINDS[kind](10, 10)
    for end in range(header_bytes):
        assert "cut short" in refusal(data_url(whole[:end]))

    assert check(data_url(whole[:header_bytes])) is not None


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (b"", "cut short"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "expected a PNG, JPEG, GIF or WebP"),
        (b"BM" + bytes(60), "expected a PNG"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\x04CgBI" + bytes(40), "expected a PNG"),
        (b"RIFF\x40\x00\x00\x00WAVE" + bytes(40), "expected a PNG"),
        (webp(b"ALPH", bytes(10)), "expected a PNG"),
        (webp(b"VP8L", bytes(10)), "expected a PNG"),
        (b"\xff\xd8\xff\xda\x00\x08" + bytes(40), "expected a PNG"),
        (b"\xff\xd8\xff\xe0\x00\x00" + bytes(40), "expected a PNG"),
        (b"\xff\xd8\xff\xe0\x00\x04ab\x00\x00" + bytes(40), "expected a PNG"),
        (b"\xff\xd8" + b"\xff" * 5000, "expected a PNG"),
        (b"\xff\xd8\xff\xe0\x00\x04ab\x00\xc0\x00\x11\x08\x00\x09\x00\x09" + bytes(40), "expected a PNG"),
        (png(0, 10), "the PNG image has no size"),
        (jpeg(10, 0), "the JPEG image has no size"),
    ],
)
def test_what_is_no_image_is_refused(image: bytes, said: str) -> None:
    assert said in refusal(data_url(image))


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png",
        "data:image/png,abc",
        "data:text/html;base64,AAAA",
        "data:image/png;base64," + "?" * 80,
        "data:image/png;base64,iVBOR\nw0KGgo",
        "data:image/png;base64,é" + "A" * 80,
        "data:image/png;base64,====" + "A" * 80,
        " data:image/png;base64,AAAA",
    ],
)
def test_a_malformed_data_url_is_refused(url: str) -> None:
    refusal(url)


@pytest.mark.parametrize("kind", ["image/png", "IMAGE/JPEG", "image/webp;charset=utf-8", "image/svg+xml"])
def test_the_bytes_tell_what_an_image_is_and_not_its_label(kind: str) -> None:
    assert check(data_url(png(3, 4), kind)) == Picture("PNG", 3, 4)


def test_an_image_is_refused_by_its_size_before_it_is_looked_at() -> None:
    assert "larger than 1000 bytes" in refusal(data_url(bytes(1100)), max_bytes=1000)


@given(
    st.binary(max_size=80),
    st.sampled_from([b"", b"\xff\xd8\xff", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"RIFF....WEBPVP8X"]),
)
def test_no_bytes_break_the_reading_of_them(data: bytes, start: bytes) -> None:
    try:
        picture = check(data_url(start + data), max_pixels=1 << 64)
    except BadRequest:
        return
    assert picture is not None
    assert picture.width * picture.height > 0


@pytest.mark.parametrize("url", ["https://example.com/cat.png", "file:///etc/passwd", "ftp://x/y", "", "cat.png"])
def test_only_data_is_accepted_unless_the_operator_says_otherwise(url: str) -> None:
    assert "only data: URLs are accepted, unless the gateway has [images] allow_urls = true" in refusal(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/cat.png",
        "http://example.com:8080/a?b=c%20d#e",
        "https://8.8.8.8/x",
        "https://[2606:4700::1111]/x",
        "HTTPS://Example.COM/x",
        "https://xn--bcher-kva.example/x",
    ],
)
def test_an_address_on_the_internet_may_be_allowed(url: str) -> None:
    assert check(url, allow_urls=True) is None


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/x",
        "//example.com/x",
        "http:///x",
        "http://127.0.0.1:8080/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "http://0x7f.1/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.0.1./",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:7f00:1::]/",
        "http://[fe80::1%25eth0]/",
        "http://[fd00::1]/",
        "http://[::1",
        "http://localhost/",
        "http://LOCALHOST/",
        "http://a.localhost/",
        "http://printer.local/",
        "http://metadata.google.internal/",
        "http://gpu-box/",
        "http://user@example.com/",
        "http://a\\@b.example/",
        "http://example.com\\@127.0.0.1/",
        "http://example.com:port/",
        "http://example.com/a b",
        "http://example.com/\r\nx: y",
        "http://exämple.com/",
        "http://example.com/ä",
        "http://example%2ecom/",
        "http://ⓛocalhost/",
        "http://-a.example/",
        "http://" + "a" * 3000 + ".com/",
    ],
)
def test_no_other_address_ever_is(url: str) -> None:
    refusal(url, allow_urls=True)


@given(st.text(max_size=60))
def test_no_text_breaks_the_check(text: str) -> None:
    refused = []
    for url in (text, f"http://{text}", f"data:image/png;base64,{text}"):
        try:
            check(url, allow_urls=True)
        except BadRequest as error:
            refused.append(error.param)

    assert set(refused) <= {PART}


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("127.0.0.1", False),
        ("239.1.1.1", False),
        ("2606:4700::1", True),
        ("::ffff:1.1.1.1", True),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::101:101", True),
        ("ff02::1", False),
    ],
)
def test_whoever_connects_can_ask_about_an_address(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) == public
