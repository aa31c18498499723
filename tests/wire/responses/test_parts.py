from __future__ import annotations

from typing import Any

import pytest

from wire.responses.dialogue import PNG, chat, refused


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (3, "input[0]"),
        ({"type": "message", "role": "robot", "content": "x"}, "input[0].role"),
        ({"role": "user"}, "input[0]"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[0].content[0].text"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "input[0].content[0].type"),
        ({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}, "input[0].content[0].image_url"),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}, "input[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_file", "file_url": "http://x"}]}, "input[0].content[0]"),
        ({"role": "system", "content": [{"type": "input_image", "image_url": PNG}]}, "input[0].content[0].type"),
        ({"type": "function_call", "call_id": "a", "name": "f"}, "input[0]"),
        ({"type": "function_call_output", "call_id": 3, "output": "x"}, "input[0].call_id"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_place(item: Any, param: str) -> None:
    error = refused(input=[item])

    assert (error.param, error.message.startswith(param)) == (param, True)


def test_a_text_file_is_text() -> None:
    part = {"type": "input_file", "filename": "a.md", "file_data": "data:text/markdown;base64,IyBIw6k="}

    assert chat({"role": "user", "content": [part]}) == [{"role": "user", "content": "a.md\n\n# Hé"}]


@pytest.mark.parametrize(
    "data", ["data:text/plain;base64,!", "data:text/plain;base64,/w==", "data:application/pdf;base64,AA"]
)
def test_a_file_that_is_not_text_is_refused(data: str) -> None:
    part = {"type": "input_file", "filename": "a", "file_data": data}

    assert str(refused(input=[{"role": "user", "content": [part]}]).param).startswith("input[0].content[0]")
