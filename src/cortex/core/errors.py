"""Everything that can go wrong, by cause. `wire.errors` alone turns these into HTTP.

CortexError
├── ConfigError                 a file or a flag is wrong: the start stops
├── RequestError                the client must change the request (4xx)
│   ├── BadRequest · ContextLengthExceeded · RequestTooSlow · PayloadTooLarge · HeadersTooLarge
│   ├── UnsupportedMediaType · ModelNotFound · RouteNotFound · MethodNotAllowed · UpgradeRequired
│   ├── Conflict                what was asked for does not go with how things are now
│   ├── AuthenticationFailed    no key, or not one of ours
│   └── PermissionDenied        the caller is known, or the page is not, and this is not for them
└── ServiceError                the same request may succeed later, or elsewhere (429, 5xx)
    ├── Overloaded              the bounded queue at a replica's door is full
    ├── RateLimited             the key has had its share of this minute, or has enough under way
    ├── BudgetExceeded          the key has used its tokens; they renew, perhaps much later
    ├── NoHealthyNode · NoFeasibleNode · InsufficientMemory
    ├── ModelNotReady           loading, or recovering from a crash
    ├── LoadFailed              a load ended without a replica; repeating it will not help
    ├── EngineFailed            the engine process died, hung or broke its protocol
    ├── PoisonRequest           engines have died of this request; it is not tried again
    ├── UpstreamFailed          a node broke the connection or answered nonsense
    ├── UpstreamTimeout         a node was silent for longer than the idle limit
    └── ShuttingDown
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

LONGEST_RETRY_SECONDS = 60


class CortexError(Exception):
    """The root: an HTTP status, the envelope's `type` and `code`, and how to retry."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after_seconds: int | None = None
    should_retry: bool | None = None

    @property
    def message(self) -> str:
        """What happened and what to do about it."""
        return str(self)


class ConfigError(CortexError):
    """A configuration file, variable or flag is wrong; the message names it and what was expected."""


class RequestError(CortexError):
    """The request cannot succeed as it is; the client must change it."""

    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        if code is not None:
            self.code = code


class BadRequest(RequestError):
    """The request's framing, JSON or a field is wrong."""


class ContextLengthExceeded(RequestError):
    """The prompt is longer than the replica's context. Clients match on this wording and code."""

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context_tokens: int) -> None:
        super().__init__(
            f"This model's maximum context length is {context_tokens} tokens. However, your messages resulted in "
            f"{prompt_tokens} tokens. Please reduce the length of the messages.",
            param="messages",
        )


class RequestTooSlow(RequestError):
    """The request's head or body stopped arriving."""

    status, type, code = 408, "timeout", "request_timeout"


class PayloadTooLarge(RequestError):
    """The body is over the limit."""

    status, code = 413, "request_too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the request body is larger than {limit_bytes} bytes")


class HeadersTooLarge(RequestError):
    """The request line or the headers are over the limit."""

    status, code = 431, "headers_too_large"


class UnsupportedMediaType(RequestError):
    """The body is not plain JSON."""

    status, code = 415, "unsupported_media_type"


class RouteNotFound(RequestError):
    """No such path."""

    status, code = 404, "not_found"


class UpgradeRequired(RequestError):
    """The path is for another protocol than the one asked for; the client falls back to plain HTTP."""

    status, code = 426, "upgrade_required"


class MethodNotAllowed(RequestError):
    """The path exists, for another method."""

    status, code = 405, "method_not_allowed"


class Conflict(RequestError):
    """Things are not, or no longer, as the request takes them to be; look again, and then decide."""

    status, code = 409, "conflict"


class ModelNotFound(RequestError):
    """Neither the catalogue nor any node knows the model."""

    status, code = 404, "model_not_found"

    def __init__(self, model: str, near: Sequence[str] = ()) -> None:
        hint = f"; did you mean {', '.join(near)}?" if near else "; GET /v1/models lists what there is"
        super().__init__(f"The model '{model[:200]}' does not exist{hint}", param="model")


class AuthenticationFailed(RequestError):
    """The request carries no key, or none that is valid. The message never repeats what was sent."""

    status, type, code = 401, "authentication_error", "invalid_api_key"


class PermissionDenied(RequestError):
    """What is asked for is not for this caller, or a browser asks on behalf of a foreign page."""

    status, type, code = 403, "permission_error", "permission_denied"


class ServiceError(CortexError):
    """Nothing is wrong with the request; it may succeed later or on another replica."""

    status = 503

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: int | None = None,
        should_retry: bool | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        if retry_after_seconds is not None:
            self.retry_after_seconds = retry_after_seconds
        if should_retry is not None:
            self.should_retry = should_retry
        if code is not None:
            self.code = code


class Overloaded(ServiceError):
    """The queue at a replica's door is full."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"
    retry_after_seconds = 2


class RateLimited(ServiceError):
    """A key's own limit on requests, tokens or concurrency is reached."""

    status, type, code = 429, "rate_limit_error", "key_limit_exceeded"
    retry_after_seconds = 2


class BudgetExceeded(ServiceError):
    """A key's token budget is used up. One that renews later than a client would wait invites no retry at all."""

    status, type, code = 429, "insufficient_quota", "insufficient_quota"
    retry_after_seconds = LONGEST_RETRY_SECONDS

    def __init__(self, message: str, *, renews_in_seconds: float) -> None:
        seconds = max(1, math.ceil(min(renews_in_seconds, LONGEST_RETRY_SECONDS)))
        should_retry = False if renews_in_seconds > LONGEST_RETRY_SECONDS else None
        super().__init__(message, retry_after_seconds=seconds, should_retry=should_retry)


class NoHealthyNode(ServiceError):
    """No node answers."""

    code = "no_healthy_node"
    retry_after_seconds = 5


class NoFeasibleNode(ServiceError):
    """Nodes answer, and none of them could ever serve this model as it is configured."""

    code = "no_feasible_node"
    should_retry = False


class InsufficientMemory(ServiceError):
    """The model does not fit beside what is loaded; the message says what is missing."""

    code = "insufficient_memory"
    retry_after_seconds = 30


class ModelNotReady(ServiceError):
    """The replica is loading, or being restarted after a crash."""

    code = "model_not_ready"
    retry_after_seconds = 2


class LoadFailed(ServiceError):
    """The model could not be loaded; the same request will fail again until somebody acts."""

    code = "model_load_failed"
    should_retry = False


class EngineFailed(ServiceError):
    """The engine process exited, hung or broke its protocol; *at_work* on the request that fails, which may be why."""

    code = "engine_failed"
    retry_after_seconds = 1

    def __init__(self, message: str, *, at_work: bool = False, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.at_work = at_work


class PoisonRequest(ServiceError):
    """Engines have died while they were at work on this very request: it is refused rather than tried again."""

    status, code = 500, "request_kills_engines"
    should_retry = False

    def __init__(self, deaths: int) -> None:
        super().__init__(
            f"{deaths} engine processes ended while they were at work on this request, so it is not tried again for a "
            "while; change the request, or look into the log of the nodes for what the engines said last"
        )


class UpstreamFailed(ServiceError):
    """A node refused, broke or garbled the connection."""

    status, code = 502, "upstream_connection_error"
    retry_after_seconds = 1


class UpstreamTimeout(ServiceError):
    """A node was silent for longer than the idle limit."""

    status, type, code = 504, "timeout", "upstream_timeout"
    retry_after_seconds = 1


class ShuttingDown(ServiceError):
    """The process is draining."""

    code = "shutting_down"
    retry_after_seconds = 15
