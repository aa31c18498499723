from __future__ import annotations

import pytest

from cortex.core import errors
from cortex.core.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    ContextLengthExceeded,
    CortexError,
    ModelNotFound,
    NoHealthyNode,
    PayloadTooLarge,
    PermissionDenied,
    RateLimited,
    RequestError,
    ServiceError,
)


def family(cls: type[CortexError]) -> list[type[CortexError]]:
    """Return *cls* and all below it that the module itself defines."""
    children = [child for child in cls.__subclasses__() if child.__module__ == errors.__name__]
    return [cls, *(below for child in children for below in family(child))]


@pytest.mark.parametrize("cls", family(RequestError))
def test_an_error_of_the_client_has_a_4xx_status_and_invites_no_retry(cls: type[RequestError]) -> None:
    assert 400 <= cls.status < 500
    assert cls.type in ("invalid_request_error", "timeout", "authentication_error", "permission_error")
    assert cls.retry_after_seconds is None


@pytest.mark.parametrize("cls", family(ServiceError))
def test_an_error_of_the_service_says_when_to_come_back_or_that_it_is_no_use(cls: type[ServiceError]) -> None:
    assert cls.status == 429 or 500 <= cls.status < 600
    if cls is not ServiceError:
        assert (cls.retry_after_seconds is not None) != (cls.should_retry is False)
        assert cls.code


def test_codes_name_one_cause_each() -> None:
    codes = [cls.code for cls in family(CortexError) if cls.code is not None]

    assert len(codes) == len(set(codes))


def test_the_tree_at_the_top_of_the_module_is_the_tree() -> None:
    assert errors.__doc__ is not None
    missing = [cls.__name__ for cls in family(CortexError) if cls.__name__ not in errors.__doc__]

    assert missing == []


def test_what_an_error_is_given_wins_over_its_class() -> None:
    error = NoHealthyNode("gone", retry_after_seconds=9, should_retry=False, code="special")

    assert (error.retry_after_seconds, error.should_retry, error.code) == (9, False, "special")
    assert (NoHealthyNode.retry_after_seconds, NoHealthyNode.code) == (5, "no_healthy_node")


def test_a_prompt_that_is_too_long_is_worded_as_clients_match_it() -> None:
    error = ContextLengthExceeded(5000, 4096)

    assert "maximum context length is 4096 tokens" in error.message
    assert (error.code, error.param) == ("context_length_exceeded", "messages")


@pytest.mark.parametrize(
    ("near", "said"), [((), "GET /v1/models lists"), (("a", "b"), "did you mean a, b?")], ids=["no hint", "hints"]
)
def test_an_unknown_model_comes_with_a_way_on(near: tuple[str, ...], said: str) -> None:
    error = ModelNotFound("x", near)

    assert said in error.message
    assert error.param == "model"


def test_a_long_name_does_not_make_a_long_message() -> None:
    assert len(ModelNotFound("x" * 100_000).message) < 400


def test_a_body_over_the_limit_hears_the_limit() -> None:
    assert "1024 bytes" in PayloadTooLarge(1024).message


@pytest.mark.parametrize(
    ("seconds", "retry_after", "should_retry"),
    [(0.0, 1, None), (0.2, 1, None), (59.1, 60, None), (60.0, 60, None), (60.1, 60, False), (86_400.0, 60, False)],
)
def test_a_budget_that_renews_beyond_a_minute_invites_no_retry(
    seconds: float, retry_after: int, should_retry: bool | None
) -> None:
    error = BudgetExceeded("spent", renews_in_seconds=seconds)

    assert (error.retry_after_seconds, error.should_retry) == (retry_after, should_retry)


@pytest.mark.parametrize(
    ("cls", "status", "kind", "code"),
    [
        (AuthenticationFailed, 401, "authentication_error", "invalid_api_key"),
        (PermissionDenied, 403, "permission_error", "permission_denied"),
        (RateLimited, 429, "rate_limit_error", "key_limit_exceeded"),
        (BudgetExceeded, 429, "insufficient_quota", "insufficient_quota"),
    ],
)
def test_a_key_that_may_not_is_told_so_in_the_words_that_sdks_know(
    cls: type[CortexError], status: int, kind: str, code: str
) -> None:
    assert (cls.status, cls.type, cls.code) == (status, kind, code)
