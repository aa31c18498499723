"""The gateway's list of models in Ollama's shapes: what could be served (tags), what is loaded (ps), and one (show).

An untagged name is listed with Ollama's own default, `:latest`, which its clients append and compare with; requests
lose it again, so a model whose own name ends so is out of this dialect's reach. What a listing does not know of a model
(size on disk, family, quantisation) is empty or 0, and the digest is one of the name alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import msgspec

from cortex.core.errors import BadRequest
from cortex.wire import json
from cortex.wire.ollama.times import instant

Entry = dict[str, Any]

# The version of Ollama whose API this follows; clients compare it with what they need.
API_VERSION = "0.13.5"
# Clients show a time so far off as "forever": a model stays until its room is wanted.
FOREVER = "2399-12-31T23:59:59Z"

_LATEST = ":latest"
_ARCHITECTURE = "cortex"
_FORMATS = {"llamacpp": "gguf"}
_CAPABILITIES = {
    "chat": "completion",
    "completions": "completion",
    "tools": "tools",
    "vision": "vision",
    "embeddings": "embedding",
    "thinking": "thinking",
    "reasoning": "thinking",
}


class NotPulled(BadRequest):
    """A model that is to be pulled is none that the gateway serves."""

    status, code = 404, "model_not_found"


class ShowRequest(msgspec.Struct):
    """`POST /api/show`; older clients say `name`."""

    model: str = ""
    name: str = ""


class PullRequest(ShowRequest):
    """`POST /api/pull`."""

    stream: bool | None = None


_show = msgspec.json.Decoder(ShowRequest)
_pull = msgspec.json.Decoder(PullRequest)


def plain_name(name: str) -> str:
    """Return *name* without the tag that Ollama's clients append to one that has none."""
    return name.removesuffix(_LATEST) or name


def tagged_name(name: str) -> str:
    """Return *name* with a tag: its own, or the one by default."""
    return name if ":" in name.rpartition("/")[2] else name + _LATEST


def list_models(entries: Sequence[Entry]) -> Entry:
    """Return *entries* of the gateway's listing as `GET /api/tags` answers; `created` is in seconds since 1970."""
    return {"models": [{**_identity(entry), "modified_at": instant(entry["created"])} for entry in entries]}


def list_running(entries: Sequence[Entry]) -> Entry:
    """Return those of *entries* that are loaded as `GET /api/ps` answers; sizes are bytes, on all nodes together."""
    return {"models": [_running(entry) for entry in entries if entry["loaded"]]}


def shown_model(body: bytes) -> str:
    """Return the model, by our name, that the body of `POST /api/show` asks for. Raises BadRequest."""
    return _name_of(json.decode(body, _show))


def pulled_model(body: bytes) -> tuple[str, bool]:
    """Return the model, by our name, that `POST /api/pull` wants, and if it is told in lines. Raises BadRequest."""
    asked = json.decode(body, _pull)
    return _name_of(asked), asked.stream is not False


def pulled() -> list[Entry]:
    """Return what `POST /api/pull` says of a model that can be served: a node fetches it when it is first asked."""
    return [{"status": "pulling manifest"}, {"status": "success"}]


def cannot_pull(name: str) -> BadRequest:
    """Return the refusal to pull *name*, in the words by which Ollama refuses what its registry does not have."""
    hint = "what this gateway serves is in its catalogue, and GET /api/tags lists it"
    return NotPulled(f"pull model manifest: file does not exist: {name[:200]!r}; {hint}", param="model")


def show_model(entry: Entry) -> Entry:
    """Return *entry* as `POST /api/show` answers. What a model that is not loaded can do is not known: completion."""
    context = entry.get("context_length")
    known = {_CAPABILITIES[each] for each in entry["capabilities"] if each in _CAPABILITIES}
    info: Entry = {"general.architecture": _ARCHITECTURE, "general.basename": entry["id"]}
    if context is not None:
        info[f"{_ARCHITECTURE}.context_length"] = context
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _details(entry),
        "model_info": info,
        "capabilities": sorted(known) or ["completion"],
        "modified_at": instant(entry["created"]),
    }


def version() -> Entry:
    """Return what `GET /api/version` answers."""
    return {"version": API_VERSION}


def _name_of(asked: ShowRequest) -> str:
    if not (asked.model or asked.name):
        raise BadRequest("model is required", param="model", code="missing_model_field")
    return plain_name(asked.model or asked.name)


def _identity(entry: Entry) -> Entry:
    name = tagged_name(entry["id"])
    digest = sha256(entry["id"].encode()).hexdigest()
    return {"name": name, "model": name, "size": 0, "digest": digest, "details": _details(entry)}


def _details(entry: Entry) -> Entry:
    return {
        "parent_model": "",
        "format": _FORMATS.get(entry["engine"] or "", ""),
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": "",
    }


def _running(entry: Entry) -> Entry:
    loaded = [place for place in entry["locations"] if place["status"] == "loaded"]
    size = sum((place["vram_estimate_mb"] or 0) << 20 for place in loaded)
    context = entry.get("context_length") or 0
    return {**_identity(entry), "size": size, "size_vram": size, "expires_at": FOREVER, "context_length": context}
