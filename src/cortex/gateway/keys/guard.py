"""The door: it knows each caller by its key. Owns the callers; no request waits for a file or a database here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from hmac import compare_digest

from cortex.core.errors import AuthenticationFailed
from cortex.gateway.keys.caller import Caller
from cortex.gateway.keys.check import offered_key
from cortex.gateway.keys.file import Keys
from cortex.gateway.keys.ledger import Ledger, Use
from cortex.gateway.keys.secret import digest_of, handle_of
from cortex.serving.head import Head

ANONYMOUS = Caller("anonymous", "admin")


class Guard:
    """Tells who calls. Without keys, everybody is the anonymous caller, who may do all and has no limits."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._callers: dict[bytes, Caller] | None = None

    def enter(self, headers: Iterable[tuple[bytes, bytes]], now: float) -> Caller:
        """Return who sends *headers*, with names in lower case. Raises AuthenticationFailed.

        A key is found by a part of its digest, which tells nothing of the key, and compared in constant time.
        """
        callers = self._callers
        if callers is None:
            return ANONYMOUS
        return self.holder(digest_of(offered_key(headers)), now)

    def holder(self, digest: bytes, now: float) -> Caller:
        """Return the caller whose key has *digest*. Raises AuthenticationFailed when that is not, or no longer, one."""
        caller = (self._callers or {}).get(handle_of(digest))
        if caller is None or not compare_digest(caller.digest, digest):
            raise AuthenticationFailed("the key is not valid; it may be mistyped, or revoked")
        if caller.expires_at <= now:
            raise AuthenticationFailed(f"the key {caller.name!r} has expired")
        return caller

    def enter_again(self, head: Head, now: float) -> Caller:
        """Return who sends *head*. One that has come before is known, until the keys change or its own expires.

        Raises AuthenticationFailed.
        """
        callers = self._callers
        if head.memo is None or head.memo[0] is not callers:
            head.memo = callers, self.enter(head.headers, now)
        caller: Caller = head.memo[1]
        return caller if caller.expires_at > now else self.enter(head.headers, now)

    async def reload(self, keys: Keys | None, now: float) -> None:
        """Put *keys* in force, None for no keys at all. What a key has used stays used. Raises StoreError.

        A key that is gone lets nobody in from here on; what is under way under it goes on to its end.
        """
        windows = [e.budget_window_seconds for e in keys.by_id.values() if e.budget_tokens] if keys else []
        # A grain of the window may begin before the window does.
        history = await self._ledger.history(now - 1.01 * max(windows) - 60) if windows else []
        self._callers = self._renewed(keys, history) if keys is not None else None

    def _renewed(self, keys: Keys, history: Iterable[Use]) -> dict[bytes, Caller]:
        used: defaultdict[str, list[Use]] = defaultdict(list)
        for use in history:
            used[use.key].append(use)
        known, callers = self._callers or {}, {}
        for entry in keys.by_id.values():
            handle = handle_of(entry.digest)
            caller = known.get(handle) or Caller(entry.name, entry.scope, digest=entry.digest, ledger=self._ledger)
            caller.limit(entry, used[entry.id])
            callers[handle] = caller
        return callers
