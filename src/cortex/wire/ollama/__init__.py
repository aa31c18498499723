"""Ollama's dialect over the hub: chats, generation, embeddings, errors, and the lists of models.

    translation = read_chat(body, created_at=now)       POST /api/chat; `translation.body` goes to the hub
    translation = read_generate(body, created_at=now)   POST /api/generate; `raw` ones are completions (`kind`)
    embedding = read_embed(body), read_embeddings(body) POST /api/embed, and the older /api/embeddings
    list_models(entries), list_running(entries)         GET /api/tags, GET /api/ps
    shown_model(body), show_model(entry), version()     POST /api/show, GET /api/version
    pulled_model(body), pulled(), cannot_pull(name)     POST /api/pull
    error_body(error)                                   what a refusal is here, under `error.status`

Both translations stream unless told not to. Source: Ollama's API reference, and what its clients send and demand.
"""

from cortex.wire.ollama.embeddings import Embedding, EmbeddingTranslation, read_embed, read_embeddings
from cortex.wire.ollama.errors import error_body
from cortex.wire.ollama.models import (
    cannot_pull,
    list_models,
    list_running,
    plain_name,
    pulled,
    pulled_model,
    show_model,
    shown_model,
    version,
)
from cortex.wire.ollama.translation import OllamaTranslation, read_chat, read_generate

__all__ = [
    "Embedding",
    "EmbeddingTranslation",
    "OllamaTranslation",
    "cannot_pull",
    "error_body",
    "list_models",
    "list_running",
    "plain_name",
    "pulled",
    "pulled_model",
    "read_chat",
    "read_embed",
    "read_embeddings",
    "read_generate",
    "show_model",
    "shown_model",
    "version",
]
