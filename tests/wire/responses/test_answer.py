from __future__ import annotations

import pytest

from cortex.core.errors import (
    BadRequest,
    ContextLengthExceeded,
    CortexError,
    ModelNotFound,
    NoHealthyNode,
    Overloaded,
    UpstreamTimeout,
)
from cortex.wire.errors import ErrorBody
from cortex.wire.responses.answer import failure_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ContextLengthExceeded(9, 5), "context_length_exceeded"),
        (Overloaded("full"), "rate_limit_exceeded"),
        (ErrorBody("full", "rate_limit_error"), "rate_limit_exceeded"),
        (BadRequest("bad", code="invalid_image_url"), "invalid_image_url"),
        (BadRequest("bad"), "invalid_prompt"),
        (ModelNotFound("m"), "invalid_prompt"),
        (NoHealthyNode("none"), "server_error"),
        (UpstreamTimeout("silent"), "server_error"),
        (ErrorBody("odd", "server_error", 500), "server_error"),
    ],
)
def test_a_failure_has_the_code_that_clients_decide_by(error: CortexError | ErrorBody, code: str) -> None:
    failure = failure_of(error)

    assert (failure.code, failure.message) == (code, error.message)
