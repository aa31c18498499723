from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cortex.core.errors import BadRequest
from cortex.wire.anthropic.content import joined, parts_of, text_of
from cortex.wire.anthropic.schema import Block

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": "AAAA"}}
IMAGE_PART = {"type": "image_url", "image_url": {"url": "data:image/webp;base64,AAAA"}}
A, B = {"type": "text", "text": "a"}, {"type": "text", "text": "b"}


def parts(block: dict[str, Any], ignored: set[str] | None = None) -> list[dict[str, Any]]:
    return parts_of(msgspec.convert(block, Block), "at", set() if ignored is None else ignored)


def document(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "document", "source": source, **more}


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (A, [A]),
        ({"type": "text", "text": ""}, []),
        (IMAGE, [IMAGE_PART]),
        (
            {"type": "image", "source": {"type": "url", "url": "http://10.0.0.1/a.png"}},
            [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/a.png"}}],
        ),
        (document({"type": "text", "media_type": "text/plain", "data": "a"}), [A]),
        (document({"type": "content", "content": "a"}), [A]),
        (document({"type": "content", "content": [A, IMAGE, B]}), [A, IMAGE_PART, B]),
        (
            document({"type": "text", "data": "a"}, title="T", context="C"),
            [{"type": "text", "text": "T\n\nC"}, A],
        ),
        (
            {"type": "search_result", "title": "T", "source": "https://x", "content": [A, B]},
            [{"type": "text", "text": "T\n\nhttps://x"}, A, B],
        ),
        ({"type": "mcp_tool_result", "content": [A]}, []),
    ],
)
def test_a_block_becomes_parts(block: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    assert parts(block) == expected


@pytest.mark.parametrize(
    ("block", "where"),
    [
        ({"type": "text"}, "at.text"),
        ({"type": "image"}, "at.source"),
        ({"type": "image", "source": "x"}, "at.source"),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "at.source.type"),
        ({"type": "image", "source": {"type": "url"}}, "at.source.url"),
        ({"type": "image", "source": {**IMAGE["source"], "media_type": "image/svg+xml"}}, "at.source.media_type"),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png"}}, "at.source.data"),
        (document({"type": "base64", "media_type": "application/pdf", "data": "JVBE"}), "at.source"),
        (document({"type": "url", "url": "https://x/a.pdf"}), "at.source"),
        (document({"type": "file", "file_id": "f"}), "at.source"),
        (document({"type": "text"}), "at.source.data"),
        (document({"type": "content", "content": [{"type": "video"}]}), "at.source.content.0.type"),
        ({"type": "document"}, "at.source"),
        ({"type": "video"}, "at.type"),
    ],
)
def test_what_cannot_be_shown_to_a_model_is_refused_by_name(block: dict[str, Any], where: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parts(block)

    assert caught.value.param == where


def test_a_pdf_is_refused_as_what_it_is() -> None:
    with pytest.raises(BadRequest, match="PDF documents are not supported; send the text"):
        parts(document({"type": "base64", "media_type": "application/pdf", "data": "JVBE"}))


def test_citations_are_named_where_they_are_asked_for() -> None:
    asked: set[str] = set()
    parts(document({"type": "text", "data": "a"}, citations={"enabled": True}), asked)
    given: set[str] = set()
    parts({**A, "citations": [{"type": "char_location"}]}, given)

    assert (asked, given) == ({"citations"}, set())


@pytest.mark.parametrize(
    ("given", "content", "text"),
    [
        ([], "", ""),
        ([A], "a", "a"),
        ([A, B], "a\n\nb", "a\n\nb"),
        ([IMAGE_PART], [IMAGE_PART], "[image]"),
        ([A, B, IMAGE_PART, A], [{"type": "text", "text": "a\n\nb"}, IMAGE_PART, A], "a\n\nb\n\n[image]\n\na"),
    ],
)
def test_parts_are_joined_as_far_as_they_are_text(given: list[Any], content: Any, text: str) -> None:
    assert joined(given) == content
    assert text_of(given) == text
