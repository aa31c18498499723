from __future__ import annotations

from wire.responses.dialogue import Value, call, calls, chunk, collected, ended, of, output


def text_of(found: list[Value]) -> str:
    return "".join(event["delta"] for event in of(found, "output_text.delta"))


def test_an_empty_answer_has_one_empty_message() -> None:
    (message,) = output(collected(chunk(role="assistant", content=""), ended()))

    assert message["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]


def test_empty_pieces_are_not_told() -> None:
    empty = chunk(content="") + chunk(reasoning_content="") + chunk(content=None) + chunk(tool_calls=[]) + chunk()

    found = collected(chunk(content="a") + empty + chunk(content="b") + ended())

    assert [event["delta"] for event in of(found, "output_text.delta")] == ["a", "b"]
    assert len(output(found)) == 1


def test_reasoning_amid_text_makes_items_of_their_own() -> None:
    pieces = [chunk(reasoning_content="r1"), chunk(content="t1"), chunk(reasoning_content="r2"), chunk(content="t2")]

    items = output(collected(*pieces, ended()))

    assert [(item["type"], item["content"][0]["text"]) for item in items] == [
        ("reasoning", "r1"),
        ("message", "t1"),
        ("reasoning", "r2"),
        ("message", "t2"),
    ]
    assert len({item["id"] for item in items}) == 4


def test_reasoning_and_text_in_one_chunk_are_told_in_their_order() -> None:
    found = collected(chunk(content="t", reasoning_content="r"), ended())

    assert [item["type"] for item in output(found)] == ["reasoning", "message"]


def test_pieces_of_parallel_calls_may_alternate_and_jump() -> None:
    found = collected(
        calls(call(0, '{"a":', "f", "c0"), call(7, '{"b":', "g", "c7")),
        calls(call(7, "2}")),
        calls(call(0, "1}")),
        calls(call(3, "{}", "h", "c3")),
        ended("tool_calls"),
    )

    assert [(item["call_id"], item["arguments"]) for item in output(found)] == [
        ("c0", '{"a":1}'),
        ("c7", '{"b":2}'),
        ("c3", "{}"),
    ]
    for item in output(found):
        own = (event for event in of(found, "function_call_arguments.delta") if event["item_id"] == item["id"])
        assert "".join(event["delta"] for event in own) == item["arguments"]


def test_text_after_a_call_is_a_message_of_its_own() -> None:
    found = collected(chunk(content="a"), calls(call(0, "{}", "f", "c")), chunk(content="b"), ended())

    assert [item["type"] for item in output(found)] == ["message", "function_call", "message"]
    assert text_of(found) == "ab"


def test_a_call_waits_for_its_name() -> None:
    found = collected(calls(call(0, '{"x"')), calls(call(0, ":1}", "f", "c")), calls(call(0, " ")), ended())

    assert [(item["name"], item["arguments"]) for item in output(found)] == [("f", '{"x":1} ')]


def test_a_call_without_name_or_id_is_still_an_item() -> None:
    (item,) = output(collected(calls(call(0, "{}")), ended()))

    assert (item["name"], item["call_id"], item["arguments"]) == ("", "call_1_0", "{}")


def test_a_call_keeps_the_first_name_and_id() -> None:
    found = collected(calls(call(0, "{", "f", "c")), calls(call(0, "}", "g", "d")), ended())

    assert [(item["name"], item["call_id"], item["arguments"]) for item in output(found)] == [("f", "c", "{}")]


def test_a_call_in_a_namespace_comes_back_apart() -> None:
    tools = [{"type": "namespace", "name": "agents", "description": "a", "tools": [{"type": "function", "name": "f"}]}]

    (item,) = output(collected(calls(call(0, "{}", "agents__f", "c")), ended("tool_calls"), tools=tools))

    assert (item["name"], item["namespace"]) == ("f", "agents")
