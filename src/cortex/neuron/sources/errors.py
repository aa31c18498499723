"""What can go wrong between a source text and the files it names."""

from __future__ import annotations

from cortex.core.errors import LoadFailed


class SourceError(LoadFailed):
    """The model's files are not to be had as asked; `should_retry` is True where only time is missing."""


class NotCached(SourceError):
    """The model's files are not on this node, and it may not use the network for them."""


def unreachable(what: str, why: object) -> SourceError:
    """Return the error for a network that does not answer while nothing is cached."""
    return SourceError(
        f"{what} is not cached and could not be fetched: {why}. Check the network of this node and its proxy and "
        "mirror settings, or copy the files here and give their path as the source",
        should_retry=True,
        retry_after_seconds=30,
    )


def not_cached(what: str) -> NotCached:
    """Return the error for a node that may not use the network."""
    return NotCached(
        f"{what} is not cached and this node is offline; fetch it once with the network on, "
        "or copy the files here and give their path as the source"
    )
