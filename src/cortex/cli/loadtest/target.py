"""Where a load test goes, and what it asks there."""

from __future__ import annotations

import random
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from cortex.cli.failures import Misconfigured

# Short common words: with the tokenizers in use each of them is one token, or little more.
_TEXT = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother
area money story fact month lot right study book eye job word business issue side kind head house service friend
"""
_WORDS = _TEXT.split()


@dataclass(frozen=True, slots=True)
class Target:
    """A server with OpenAI's chat route: where to connect, and the head of each request to it."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    path: str
    authority: str
    key: str | None

    def request(self, body: bytes) -> bytes:
        """Return a whole HTTP request with *body*."""
        authorization = f"authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: {self.authority}\r\ncontent-type: application/json\r\n"
            f"accept: text/event-stream\r\n{authorization}content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def target(url: str, key: str | None) -> Target:
    """Return the chat route of the server at *url*, given with or without `/v1`. Raises Misconfigured."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise Misconfigured(f"{url!r}: expected http://host:port or https://host, with or without /v1")
    secure = parts.scheme == "https"
    base = parts.path.rstrip("/").removesuffix("/v1")
    return Target(
        host=parts.hostname,
        port=port or (443 if secure else 80),
        tls=ssl.create_default_context() if secure else None,
        path=f"{base}/v1/chat/completions",
        authority=parts.netloc.rpartition("@")[2],
        key=key,
    )


@dataclass(frozen=True, slots=True)
class Ask:
    """What each request asks: a prompt of about `prompt_tokens` that no other request has, `max_tokens` at most.

    With `same_prompt` all requests have one prompt, as a cache of prefixes would like it. Nothing is sampled, so that
    the same test asks for the same work again.
    """

    model: str
    prompt_tokens: int
    max_tokens: int
    same_prompt: bool = False

    def body(self, number: int) -> bytes:
        """Return the body of request *number*."""
        chance = random.Random(0 if self.same_prompt else number)
        words = " ".join(chance.choices(_WORDS, k=max(1, self.prompt_tokens)))
        label = "" if self.same_prompt else f"Request {number}. "
        return msgspec.json.encode(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": f"{label}Go on with this list of words: {words}"}],
                "max_tokens": self.max_tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
