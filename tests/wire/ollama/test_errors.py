from __future__ import annotations

import json

import pytest

from cortex.core.errors import BadRequest, CortexError, ModelNotFound, Overloaded
from cortex.wire.errors import ErrorBody
from cortex.wire.ollama import error_body


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BadRequest("prompt: no", param="prompt"), "prompt: no"),
        (ModelNotFound("m"), "The model 'm' does not exist; GET /v1/models lists what there is"),
        (Overloaded("the queue is full"), "the queue is full"),
        (ErrorBody("died", code="engine_failed"), "died"),
    ],
)
def test_an_error_is_its_message(error: CortexError | ErrorBody, message: str) -> None:
    assert json.loads(error_body(error)) == {"error": message}
