"""Who may do what on this gateway: the keys in force, what they have used, and the names that it answers to."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from cortex.core.errors import ConfigError, ServiceError
from cortex.core.logging import get_logger
from cortex.gateway.config import KeySettings
from cortex.gateway.keys import entry
from cortex.gateway.keys.caller import Caller
from cortex.gateway.keys.check import NoKeyOffered
from cortex.gateway.keys.clock import steady_clock
from cortex.gateway.keys.file import Keys, load_keys
from cortex.gateway.keys.guard import Guard
from cortex.gateway.keys.headers import anthropic_lines, openai_lines
from cortex.gateway.keys.issuing import Uses, uses, windows
from cortex.gateway.keys.ledger import Ledger, StoreError
from cortex.gateway.keys.listening import listening_is_safe
from cortex.gateway.keys.sessions import Sessions
from cortex.gateway.keys.sqlite_store import SqliteStore
from cortex.serving.exchange import Exchange
from cortex.serving.head import Head
from cortex.serving.hosts import HostCheck, own_names
from cortex.serving.origin import ANY_HOST
from cortex.wire.envelopes import is_anthropic
from cortex.wire.joining import JOIN

log = get_logger(__name__)

OPEN_PATHS = frozenset({"/", "/health", "/openapi.json", "/ui", JOIN})
DASHBOARD = "/ui/"
CLIENTS = ("/v1/", "/api/")
CALLER = "cortex.caller"


def check_listening(settings: KeySettings, key_file: Path, host: str) -> None:
    """Warn of what is strange about listening on *host*. Raises ConfigError where it is not safe."""
    has_keys = settings.file is not None or key_file.exists()
    verdict = listening_is_safe(host, has_keys, settings.auth)
    if isinstance(verdict, ConfigError):
        raise ConfigError(f"{verdict} (its key file is {key_file})")
    if verdict is not None:
        log.warning("gateway_is_open", reason=verdict)


def wanted_scope(path: str) -> entry.Scope | None:
    """Return what a key must be for at *path*, which is not of the data path; None where none is asked for.

    What is not known to be for every key is for admins.
    """
    if path in OPEN_PATHS or path.startswith(DASHBOARD):
        return None
    return "inference" if path.startswith(CLIENTS) else "admin"


class Access:
    """Owns the guard, the ledger, the sessions of browsers, and their clock.

    *key_file* need not exist: there are no keys, then, until it does. *host* is what is listened on.
    """

    def __init__(self, settings: KeySettings, key_file: Path, ledger: Path, host: str) -> None:
        """Read the keys and open the ledger. Raises ConfigError."""
        self.key_file = key_file if settings.auth != "none" else None
        is_there = self.key_file is not None and (settings.file is not None or key_file.exists())
        self.keys = load_keys(key_file) if is_there else None
        self.clock = steady_clock()
        self.ledger = Ledger(SqliteStore(ledger))
        self.sessions = Sessions()
        self._guard = Guard(self.ledger)
        self._settings, self._host = settings, host
        self.check = self._host_check()

    async def start(self) -> None:
        """Put the keys that were read in force; nobody is let in by key before. Raises ConfigError."""
        await self.take(self.keys)

    async def take(self, keys: Keys | None) -> None:
        """Put *keys* in force. Raises ConfigError when it cannot be read what they have used."""
        try:
            await self._guard.reload(keys, self.clock())
        except StoreError as error:
            raise ConfigError(f"what the keys have used cannot be read: {error}") from None
        self.keys = keys
        self.check = self._host_check()
        for warning in keys.warnings if keys is not None else ():
            log.warning("key_file_is_readable", reason=warning)

    def _host_check(self) -> HostCheck:
        """Return what judges names. Whoever has a key may call this gateway by any; a browser's visitor has none."""
        allowed = self._settings.allowed_hosts
        if allowed is None:
            allowed = (ANY_HOST,) if self.keys is not None else own_names()
        return HostCheck(self._host, allowed)

    def look(self, exchange: Exchange) -> None:
        """Judge the names in a request: a `Site`'s check. Raises BadRequest, PermissionDenied."""
        self.check(exchange)

    def enter(self, headers: Sequence[tuple[bytes, bytes]]) -> Caller:
        """Return who sends *headers*: by the key in them, else by the session of a browser's page.

        Raises AuthenticationFailed.
        """
        try:
            return self._guard.enter(headers, self.clock())
        except NoKeyOffered as refusal:
            return self._enter_by_session(headers, refusal)

    def _enter_by_session(self, headers: Sequence[tuple[bytes, bytes]], refusal: NoKeyOffered) -> Caller:
        """Return who opened the session of *headers*. Raises *refusal* if there is none, AuthenticationFailed."""
        now = self.clock()
        key = self.sessions.key_of(headers, now)
        if key is None:
            raise refusal
        return self._guard.holder(key, now)

    def sign_in(self, key: str) -> str:
        """Open a session for the holder of *key*; return what its browser is to keep. Raises AuthenticationFailed."""
        now = self.clock()
        caller = self._guard.enter([(b"x-api-key", key.strip().encode())], now)
        return self.sessions.open(caller.digest, now)

    def enter_again(self, head: Head) -> Caller:
        """Return who sends *head*, found out once for as long as the keys are the same. Raises AuthenticationFailed."""
        try:
            return self._guard.enter_again(head, self.clock())
        except NoKeyOffered as refusal:
            return self._enter_by_session(head.headers, refusal)

    async def uses(self, entries: Sequence[entry.KeyEntry]) -> Uses:
        """Return what the keys of *entries* have used. Raises ServiceError when that cannot be read."""
        now, spans = self.clock(), windows(entries)
        try:
            totals = await self.ledger.totals([0.0, *(now - seconds for seconds in spans)])
        except StoreError as error:
            raise ServiceError(f"what the keys have used cannot be read: {error}") from None
        return uses(entries, totals[0.0], {seconds: totals[now - seconds] for seconds in spans})

    @contextmanager
    def one_request(self, caller: Caller, names: Sequence[str]) -> Generator[None, None, None]:
        """Count a request that takes no tokens, for a model with *names*. Raises PermissionDenied, RateLimited."""
        admission = caller.admit(names, 1, 0, self.clock())
        try:
            yield
        finally:
            admission.release(self.clock())

    def limits_of(self, caller: Caller, path: str) -> bytes:
        """Return the lines of a head that tell where the limits of *caller* stand, in the dialect of *path*."""
        if self.keys is None:
            return b""
        now = self.clock()
        standing = caller.standing(now)
        return anthropic_lines(standing) if is_anthropic(path) else openai_lines(standing, now)

    def guarded(self, application: ASGIApp) -> ASGIApp:
        """Return *application* behind the guard; `caller_of` tells its handlers who calls."""

        async def guard(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                wanted = wanted_scope(scope["path"])
                if wanted is not None:
                    caller = scope[CALLER] = self.enter(scope["headers"])
                    caller.require(wanted)
            await application(scope, receive, send)

        return guard


def caller_of(request: Request) -> Caller:
    """Return who sends *request*, which has passed the guard."""
    caller: Caller = request.scope[CALLER]
    return caller


def known_to(caller: Caller, models: Iterable[str]) -> list[str]:
    """Return those of *models* that *caller* may use; it hears of no others."""
    return [model for model in models if caller.allows((model,))]
