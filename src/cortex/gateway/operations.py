"""Every operation that the gateway offers: its method and path, what it reads, and how it can end."""

from __future__ import annotations

from dataclasses import dataclass

from cortex.gateway.fleet_routes import NewNode
from cortex.gateway.key_routes import NewKey
from cortex.gateway.order_routes import LoadOrder, PinOrder, UnloadOrder
from cortex.gateway.web.routes import SignIn
from cortex.wire import openai
from cortex.wire.anthropic import schema as anthropic
from cortex.wire.joining import INVITES, JOIN, InviteOrder, JoinRequest
from cortex.wire.ollama import models
from cortex.wire.ollama import schema as ollama
from cortex.wire.rerank import RERANK, RerankBody
from cortex.wire.responses.request import Body as ResponsesBody

JSON, EVENTS, LINES, FIGURES = "application/json", "text/event-stream", "application/x-ndjson", "text/plain"
PAGE = "text/html"

# What the connection itself may refuse, whatever the path.
_ANY = (400, 403, 408, 413, 415, 431, 500)
_KEYED = (401, *_ANY)
_HUB = (404, 429, 502, 503, 504, *_KEYED)
_MESSAGES = (529, *_HUB)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the path (then it is required), the query or a header; *kind* is its JSON type."""

    name: str
    place: str
    description: str
    kind: str = "string"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    *body* is the Struct that reads a request; *status* and *answers* are those of success, by media type; *errors* are
    the statuses of refusals; *is_open* where nobody asks for a key.
    """

    method: str
    path: str
    group: str
    summary: str
    body: type | None = None
    parameters: tuple[Parameter, ...] = ()
    status: int = 200
    answers: tuple[str, ...] = (JSON,)
    errors: tuple[int, ...] = _KEYED
    is_open: bool = False


_MODEL = Parameter("model", "path", "A model's id or alias; its slashes may be percent-encoded or not.")
_NODE = Parameter("name", "path", "A node's name.")
_RESPONSE = Parameter("response_id", "path", "The id of a response that was made with `store`.")
_AFTER = Parameter("after", "query", "Only entries after the one with this number.", "integer")
_SINCE = Parameter("since", "query", "Seconds since 1970, or how long ago, such as 90s or 2h.")
_VERSION = Parameter("anthropic-version", "header", "Given, the answer has Anthropic's shape.")
_PAGE = (
    Parameter("limit", "query", "How many models a page has; of Anthropic's shape only.", "integer"),
    Parameter("after_id", "query", "The model before the page; of Anthropic's shape only."),
    Parameter("before_id", "query", "The model after the page; of Anthropic's shape only."),
)

INFERENCE = (
    Operation("post", openai.CHAT, "OpenAI", "Answer a chat.", openai.ChatRequest, answers=(JSON, EVENTS), errors=_HUB),
    Operation(
        "post",
        openai.COMPLETION,
        "OpenAI",
        "Complete a text.",
        openai.CompletionRequest,
        answers=(JSON, EVENTS),
        errors=_HUB,
    ),
    Operation("post", openai.EMBEDDING, "OpenAI", "Embed texts.", openai.EmbeddingRequest, errors=_HUB),
    Operation("post", RERANK, "OpenAI", "Order documents by how well they answer a query.", RerankBody, errors=_HUB),
    Operation(
        "post",
        "/v1/responses",
        "OpenAI",
        "Answer as a response, which later ones may go on from.",
        ResponsesBody,
        answers=(JSON, EVENTS),
        errors=_HUB,
    ),
    Operation(
        "get",
        "/v1/responses/{response_id}",
        "OpenAI",
        "Return a stored response.",
        parameters=(_RESPONSE,),
        errors=(404, *_KEYED),
    ),
    Operation(
        "delete",
        "/v1/responses/{response_id}",
        "OpenAI",
        "Forget a stored response.",
        parameters=(_RESPONSE,),
        errors=(404, *_KEYED),
    ),
    Operation(
        "post",
        "/v1/messages",
        "Anthropic",
        "Answer a conversation.",
        anthropic.MessagesRequest,
        answers=(JSON, EVENTS),
        errors=_MESSAGES,
    ),
    Operation(
        "post",
        "/v1/messages/count_tokens",
        "Anthropic",
        "Count the tokens of a conversation.",
        anthropic.Prompt,
        errors=_MESSAGES,
    ),
    Operation("get", "/v1/models", "OpenAI", "List the models that the caller may use.", parameters=(_VERSION, *_PAGE)),
    Operation(
        "get",
        "/v1/models/{model}",
        "OpenAI",
        "Describe a model.",
        parameters=(_MODEL, _VERSION),
        errors=(404, *_KEYED),
    ),
)

OLLAMA = (
    Operation("post", "/api/chat", "Ollama", "Answer a chat.", ollama.ChatRequest, answers=(LINES, JSON), errors=_HUB),
    Operation(
        "post",
        "/api/generate",
        "Ollama",
        "Complete a text.",
        ollama.GenerateRequest,
        answers=(LINES, JSON),
        errors=_HUB,
    ),
    Operation("post", "/api/embed", "Ollama", "Embed texts.", ollama.EmbedRequest, errors=_HUB),
    Operation("post", "/api/embeddings", "Ollama", "Embed one text.", ollama.EmbeddingsRequest, errors=_HUB),
    Operation("post", "/api/show", "Ollama", "Describe a model.", models.ShowRequest, errors=(404, *_KEYED)),
    Operation(
        "post",
        "/api/pull",
        "Ollama",
        "Ask for a model: it is fetched when it is first used.",
        models.PullRequest,
        answers=(LINES, JSON),
        errors=(404, *_KEYED),
    ),
    Operation("get", "/api/tags", "Ollama", "List the models that the caller may use."),
    Operation("get", "/api/ps", "Ollama", "List the models that are loaded."),
    Operation("get", "/api/version", "Ollama", "Tell the version of Ollama whose API this follows."),
)

OPERATING = (
    Operation("get", "/fleet", "Fleet", "Show every node with its devices and replicas, and what waits."),
    Operation(
        "get",
        "/fleet/explain/{model}",
        "Fleet",
        "Tell what would happen to a request for a model now, and why.",
        parameters=(_MODEL,),
        errors=(404, *_KEYED),
    ),
    Operation(
        "get",
        "/fleet/decisions",
        "Fleet",
        "Tell what was decided, and what came of it, oldest first.",
        parameters=(
            Parameter("model", "query", "Only what was decided on this model."),
            _AFTER,
            Parameter("limit", "query", "The most entries to return: 100 unless told otherwise.", "integer"),
        ),
    ),
    Operation(
        "get",
        "/fleet/events",
        "Fleet",
        "Tell decisions and requests as they happen, for as long as one listens.",
        parameters=(_AFTER,),
        answers=(EVENTS,),
    ),
    Operation(
        "get",
        "/fleet/live",
        "Fleet",
        "Tell the whole fleet, then its changes and events, for as long as one listens.",
        answers=(EVENTS,),
    ),
    Operation(
        "get",
        "/fleet/history",
        "Fleet",
        "Tell the figures of each minute: requests, errors, times to the first token, tokens, loads, evictions.",
        parameters=(_SINCE,),
    ),
    Operation(
        "get",
        "/traces",
        "Fleet",
        "List the last requests, or the slowest.",
        parameters=(
            Parameter("slow", "query", "Those that waited longest for their first token come first.", "boolean"),
            Parameter("failed", "query", "Only requests that failed.", "boolean"),
            Parameter("key", "query", "Only requests of the key with this name."),
            Parameter("model", "query", "Only requests for the model with this id."),
            _SINCE,
            Parameter("limit", "query", "The most requests to return: 20 unless told otherwise.", "integer"),
        ),
    ),
    Operation(
        "get",
        "/traces/{request_id}",
        "Fleet",
        "Tell where the time of one request went.",
        parameters=(Parameter("request_id", "path", "The `x-request-id` of its answer."),),
        errors=(404, *_KEYED),
    ),
    Operation("post", "/fleet/nodes", "Fleet", "Add a node, which is kept over restarts.", NewNode, status=201),
    Operation(
        "post",
        INVITES,
        "Fleet",
        "Invite a node: make a token with which one may join.",
        InviteOrder,
        status=201,
    ),
    Operation(
        "post",
        JOIN,
        "Fleet",
        "Join the fleet: signed with a token, a node exchanges its key for a certificate.",
        JoinRequest,
        status=201,
        errors=(429, *_KEYED),
        is_open=True,
    ),
    Operation(
        "delete",
        "/fleet/nodes/{name}",
        "Fleet",
        "Forget a node that was added or joined; the certificate of one that joined is revoked.",
        parameters=(_NODE,),
        errors=(404, *_KEYED),
    ),
    Operation(
        "post",
        "/fleet/load",
        "Fleet",
        "Load one more replica of a model, or tell how it would be done.",
        LoadOrder,
        errors=(404, 409, *_KEYED),
    ),
    Operation(
        "post",
        "/fleet/unload",
        "Fleet",
        "Unload a replica, or tell what that would come to.",
        UnloadOrder,
        errors=(404, 409, *_KEYED),
    ),
    Operation("post", "/fleet/pin", "Fleet", "Pin a model, or unpin it.", PinOrder, errors=(404, *_KEYED)),
    Operation(
        "get",
        "/fleet/nodes/{name}/drain",
        "Fleet",
        "Tell what draining a node would come to.",
        parameters=(_NODE,),
        errors=(404, *_KEYED),
    ),
    Operation(
        "post",
        "/fleet/nodes/{name}/drain",
        "Fleet",
        "Give a node no new work, and move its models elsewhere.",
        parameters=(_NODE,),
        errors=(404, *_KEYED),
    ),
    Operation(
        "post",
        "/fleet/nodes/{name}/undrain",
        "Fleet",
        "Put a node back into service.",
        parameters=(_NODE,),
        errors=(404, *_KEYED),
    ),
    Operation("get", "/", "Gateway", "Tell how the gateway and its nodes are.", errors=_ANY, is_open=True),
    Operation("get", "/health", "Gateway", "Tell how the gateway and its nodes are.", errors=_ANY, is_open=True),
    Operation("get", "/openapi.json", "Gateway", "Return this document.", errors=_ANY, is_open=True),
    Operation("get", "/metrics", "Gateway", "Return figures for Prometheus.", answers=(FIGURES,)),
)

KEYS = (
    Operation("get", "/keys", "Keys", "List the keys with their limits and what they have used."),
    Operation("post", "/keys", "Keys", "Make a key, told this once.", NewKey, status=201, errors=(409, *_KEYED)),
    Operation(
        "delete",
        "/keys/{name}",
        "Keys",
        "Revoke a key.",
        parameters=(Parameter("name", "path", "The key's name or id."),),
        errors=(404, 409, *_KEYED),
    ),
)

DASHBOARD = (
    Operation("get", "/ui", "Dashboard", "Return the page.", answers=(PAGE,), errors=_ANY, is_open=True),
    Operation("get", "/ui/", "Dashboard", "Return the page.", answers=(PAGE,), errors=_ANY, is_open=True),
    Operation(
        "get",
        "/ui/static/{path}",
        "Dashboard",
        "Return a file of the page.",
        parameters=(Parameter("path", "path", "The file's path."),),
        answers=("*/*",),
        errors=(404, *_ANY),
        is_open=True,
    ),
    Operation("get", "/ui/session", "Dashboard", "Tell who the browser is signed in as.", errors=_ANY, is_open=True),
    Operation(
        "post",
        "/ui/session",
        "Dashboard",
        "Exchange a key for a session's cookie.",
        SignIn,
        errors=_KEYED,
        is_open=True,
    ),
    Operation("delete", "/ui/session", "Dashboard", "End the session.", errors=_ANY, is_open=True),
)

OPERATIONS = (*INFERENCE, *OLLAMA, *OPERATING, *KEYS, *DASHBOARD)
