"""A JSON schema is held token by token, and one that cannot be held is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from cortex.core.errors import BadRequest
from cortex.engines.transformers.grammar import GrammarError, Grammars
from cortex.engines.transformers.prompts import Prompts
from tiny_llama import write_tiny_llama

pytestmark = pytest.mark.tp


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Prompts:
    return Prompts(write_tiny_llama(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def grammars(prompts: Prompts) -> Grammars:
    return Grammars(prompts.backend, 103, [2])


def follow(grammars: Grammars, prompts: Prompts, schema: dict[str, Any], text: str) -> set[str]:
    """Return what may come after *text*."""
    matcher = grammars.matcher(schema, "s")
    for token in prompts.tokens(text, special=False):
        assert matcher.allowed(103)[token], f"{prompts.backend.decode([token])!r} is not allowed"
        matcher.accept(token)
    allowed = matcher.allowed(103).nonzero().flatten().tolist()
    return {prompts.backend.decode([token], skip_special_tokens=False) for token in allowed}


SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def test_only_what_the_schema_has_may_follow(grammars: Grammars, prompts: Prompts) -> None:
    assert follow(grammars, prompts, SCHEMA, "") == {"{"}
    assert follow(grammars, prompts, SCHEMA, '{"city": "') == {"O", "R"}
    assert follow(grammars, prompts, SCHEMA, '{"city": "Oslo"') == {"}"}


def test_at_its_end_only_the_end_may_follow(grammars: Grammars, prompts: Prompts) -> None:
    assert follow(grammars, prompts, SCHEMA, '{"city": "Rome"}') == {"<|im_end|>"}


def test_a_token_that_is_not_allowed_is_an_error(grammars: Grammars, prompts: Prompts) -> None:
    matcher = grammars.matcher(SCHEMA, "s")

    with pytest.raises(GrammarError):
        matcher.accept(prompts.tokens("x", special=False)[0])


@pytest.mark.parametrize("schema", [{"type": "string", "pattern": "("}, {"$ref": "#/nowhere"}, {"type": "bogus"}])
def test_a_schema_that_cannot_be_held_is_refused(grammars: Grammars, schema: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=r"^s: "):
        grammars.matcher(schema, "s")


def test_a_request_cannot_read_files(grammars: Grammars, tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        grammars.matcher({"$ref": f"file://{tmp_path}/x.json"}, "s")
