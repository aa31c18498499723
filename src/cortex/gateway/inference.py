"""One inference request, from its head to the last byte: wait for a replica, relay, go elsewhere while it can."""

from __future__ import annotations

import asyncio
import hashlib
import time
from functools import partial

from msgspec.structs import replace

from cortex.core.errors import CortexError, ModelNotFound, NoHealthyNode, Overloaded
from cortex.core.ids import is_model_id
from cortex.core.logging import get_logger
from cortex.core.model_spec import ModelSpec
from cortex.fleet.affinity import Keys
from cortex.fleet.route import Choice
from cortex.fleet.view import ReplicaView
from cortex.gateway.access import Access, known_to
from cortex.gateway.catalogue import Catalogue
from cortex.gateway.continuing import HEADER, NEVER, Continuing
from cortex.gateway.dialects import Asked, Dialects
from cortex.gateway.feed import Feed
from cortex.gateway.images import ImageFetcher
from cortex.gateway.keys.caller import Admission, Caller
from cortex.gateway.keys.check import prompt_estimate
from cortex.gateway.poison import Poison
from cortex.gateway.poller import Poller
from cortex.gateway.relay import BrokenOff, Outcome, Relay, TryElsewhere, ignored_header
from cortex.gateway.steward import Steward, WaitingRequest
from cortex.gateway.story import Story, log_trouble, paid_usage, words_of
from cortex.gateway.trace.journal import Journal
from cortex.gateway.trace.record import LEFT, Attempt
from cortex.serving.event_stream import EventStream
from cortex.serving.exchange import JSON, Exchange
from cortex.wire.continuation import CannotContinue
from cortex.wire.engine_api import Usage
from cortex.wire.envelopes import is_ollama
from cortex.wire.errors import openai_event
from cortex.wire.ollama import plain_name
from cortex.wire.openai import CHAT, KINDS, read_request
from cortex.wire.session import message_chain, read_prompt, session_key
from cortex.wire.traceparent import valid_traceparent

log = get_logger(__name__)

PATIENCE_SECONDS = 0.9
MAX_ATTEMPTS = 6
SESSION_DIGITS = 16
# The node is well, and the model is not there, or not there yet: it may be loaded, or waited for.
_STALE = frozenset({"model_not_found", "model_not_ready", "engine_failed", "shutting_down"})


def _keys(exchange: Exchange) -> Keys:
    prompt = read_prompt(exchange.body)
    return Keys(session_key(exchange.head.header, prompt), message_chain(prompt))


def _check(asked: Asked, stream: EventStream | None) -> None:
    """Find out what is wrong with a request before a model is loaded for it. Raises BadRequest."""
    checked = read_request(KINDS[asked.path], asked.body)
    ignored = (*asked.ignored, *checked.ignored)
    if stream is not None and ignored and not stream.opened:
        stream.headers = [(b"x-cortex-ignored", ", ".join(ignored).encode())]


class Inference:
    """The handler of the data path."""

    def __init__(
        self,
        catalogue: Catalogue,
        access: Access,
        dialects: Dialects,
        steward: Steward,
        poller: Poller,
        relay: Relay,
        journal: Journal,
        feed: Feed,
        images: ImageFetcher | None = None,
    ) -> None:
        self.catalogue, self._access, self._dialects = catalogue, access, dialects
        self._steward, self._poller, self._relay = steward, poller, relay
        self._journal, self._feed, self._images = journal, feed, images
        self._poison = Poison()

    async def __call__(self, exchange: Exchange) -> None:
        """Serve one request and write its last line, however it ends."""
        story = Story(exchange)
        try:
            await self._serve(exchange, story)
        except CortexError as error:
            self._ended(story, error.status, error.code or str(error.status), error)
            raise
        except asyncio.CancelledError:
            if story.answered:  # a client that has the last event need not wait for the end of the transfer
                self._answered(story)
            else:
                self._ended(story, LEFT, None, None)
            raise
        except BaseException as error:
            self._ended(story, 500, "internal_error", error)
            raise
        self._answered(story)

    def _answered(self, story: Story) -> None:
        """Take note of an answer that is out, and tell those who listen."""
        if story.answered and story.outcome is not None and story.outcome.trailer is not None and self._feed.listened:
            self._pass_on(story, story.outcome.trailer.usage)
        self._ended(story, story.exchange.status, "stream_error" if story.failed else None, None)

    def _ended(self, story: Story, status: int, code: str | None, error: BaseException | None) -> None:
        """Hand over what happened: this is all that a request pays for its evidence."""
        record = story.record(status, code, words_of(error))
        self._journal.add(record)
        if not record.went_well:
            log_trouble(record, error)

    async def _serve(self, exchange: Exchange, story: Story) -> None:
        story.traceparent = valid_traceparent(exchange.header(b"traceparent"))
        caller = story.caller = self._access.enter_again(exchange.head)
        caller.require("inference")
        # Ollama's clients declare what they like; a page of another site is stopped by its Origin before this.
        if not is_ollama(exchange.path):
            exchange.head.require_json()
        asked = story.asked = self._dialects.read(exchange, caller.id)
        spec = self.catalogue.find(asked.model)
        tokens = prompt_estimate(len(asked.body))
        story.let_in = False
        admission = self._admit(asked, spec, exchange, caller, tokens)
        story.let_in = True
        try:
            if self._images is not None and asked.path == CHAT:
                asked = story.asked = replace(asked, body=await self._images.inline(asked.body))
            await self._serve_admitted(asked, spec, exchange, story)
            if not story.failed:
                self._dialects.done(asked, caller.id)
        finally:
            usage = story.paid = paid_usage(story.outcome, tokens)
            if usage is None:
                admission.release(self._access.clock())
            else:
                admission.settle(usage, self._access.clock())

    def _admit(
        self, asked: Asked, spec: ModelSpec | None, exchange: Exchange, caller: Caller, prompt_tokens: int
    ) -> Admission:
        """Let a request in, and have its answer tell where the caller's limits stand, whatever becomes of it."""
        names = (asked.model, spec.id, *spec.aliases) if spec is not None else (asked.model,)
        try:
            return caller.admit(names, prompt_tokens, asked.max_tokens, self._access.clock())
        finally:
            exchange.told = self._access.limits_of(caller, exchange.path)

    async def _serve_admitted(self, asked: Asked, spec: ModelSpec | None, exchange: Exchange, story: Story) -> None:
        model = spec.id if spec is not None else self._unlisted(asked.model)
        if not is_model_id(model):
            raise ModelNotFound(model)
        story.model = model
        story.known = spec is not None or model in self._poller.view.models
        ticket = WaitingRequest(model, time.monotonic(), keys=partial(_keys, exchange))
        if asked.loads_only:
            await self._load_only(asked, exchange, story, ticket)
        elif asked.stream:
            await self._stream(asked, exchange, story, ticket)
        else:
            await self._attempts(asked, exchange, story, ticket, None)
        if asked.lets_go:
            self._steward.let_go(model)

    def _unlisted(self, name: str) -> str:
        """Return the id of a model that only nodes may have: *name*, or *name* without Ollama's tag."""
        plain, known = plain_name(name), self._poller.view.models
        return plain if plain in known and name not in known else name

    async def _load_only(self, asked: Asked, exchange: Exchange, story: Story, ticket: WaitingRequest) -> None:
        """Have the model loaded, unless it is to be let go of, and answer."""
        if not asked.lets_go:
            choice = await self._turn(story, ticket, None)
            story.node = choice.replica.node
            self._steward.finished(choice.replica.spot)
        elif not story.known:
            raise self._with_hints(ModelNotFound(ticket.model), story)
        exchange.respond(200, asked.loaded(), [JSON, *ignored_header(asked, {})])

    async def _stream(self, asked: Asked, exchange: Exchange, story: Story, ticket: WaitingRequest) -> None:
        def keep_alive() -> bytes:
            text = self._steward.comment(ticket) if story.waits else "keep-alive"
            return asked.keep_alive(text)

        if exchange.head.header(HEADER) != NEVER:
            story.continuing = Continuing(asked)
        last_words = asked.translation.fail if asked.translation is not None else openai_event
        with EventStream(
            exchange,
            headers=ignored_header(asked, {}),
            content_type=asked.content_type,
            patience_seconds=PATIENCE_SECONDS,
            comment=keep_alive,
            last_words=last_words,
        ) as stream:
            await self._attempts(asked, exchange, story, ticket, stream)
            stream.finish()

    async def _attempts(
        self, asked: Asked, exchange: Exchange, story: Story, ticket: WaitingRequest, stream: EventStream | None
    ) -> None:
        """Get a replica and relay, until an answer is out or nothing is left to try."""
        last: CortexError | None = None
        first = asked
        while story.attempts < MAX_ATTEMPTS:
            story.attempts += 1
            deaths = self._poison.deaths(story.model, first)
            if not self._steward.reconciler.ready(ticket.model):
                _check(asked, stream)
            choice = await self._turn(story, ticket, last)
            try:
                await self._relay_to(choice.replica, asked, exchange, story, stream, deaths)
            except TryElsewhere as failure:
                last = failure.error
                if not story.continued:
                    story.outcome = None
                self._poison.note(story.model, first, last.code)
                await self._note_failure(choice.replica, last, story, ticket)
            except BrokenOff as broken:
                last = broken.error
                self._poison.note(story.model, first, last.code)
                asked = self._rest(first, last, story, stream)
                await self._note_failure(choice.replica, last, story, ticket)
            else:
                if story.failed:
                    self._poison.note(story.model, first, story.error_code)
                elif deaths:
                    self._poison.clear(story.model, first)
                return
        raise last or NoHealthyNode(f"{story.model} could not be served in {MAX_ATTEMPTS} attempts")

    def _rest(self, asked: Asked, error: CortexError, story: Story, stream: EventStream | None) -> Asked:
        """Return what to ask of another replica, now that *error* broke off the answer; raise *error* if nothing."""
        if stream is None or story.continuing is None:
            raise error
        try:
            body = story.continuing.rest(error)
        except CannotContinue as reason:
            log.info("answer_not_continued", request=story.exchange.request_id, model=story.model, reason=str(reason))
            raise error from None
        said = story.continuing.pieces
        log.warning("answer_goes_on", request=story.exchange.request_id, model=story.model, node=story.node, said=said)
        stream.write(asked.keep_alive(f"broken off after {said} tokens; another replica goes on"))
        return replace(asked, body=body)

    async def _turn(self, story: Story, ticket: WaitingRequest, last: CortexError | None) -> Choice:
        """Wait for a replica. Raises what refuses the request; after a failed attempt, what that failed of."""
        began = story.asked_at = story.chosen_at = time.perf_counter()
        choice = story.choice = self._steward.at_once(ticket)
        if choice is not None:
            return choice
        story.waits = True
        try:
            choice = story.choice = await self._steward.replica_for(ticket)
        except CortexError as error:
            raise last or self._with_hints(error, story) from None
        finally:
            story.waits = False
            story.chosen_at, story.place = time.perf_counter(), ticket.place
            story.wait_seconds += story.chosen_at - began
        return choice

    async def _relay_to(
        self,
        replica: ReplicaView,
        asked: Asked,
        exchange: Exchange,
        story: Story,
        stream: EventStream | None,
        deaths: int,
    ) -> None:
        node = story.node = replica.node
        outcome = story.outcome = Outcome(
            wait_seconds=story.wait_seconds,
            deaths=deaths,
            traceparent=story.traceparent,
            events=story.said,
            continuing=story.continuing,
        )
        try:
            address = self._poller.address(node)
            if stream is not None:
                await self._relay.stream(asked, exchange, stream, address, node, story.model, outcome)
            else:
                await self._relay.unary(asked, exchange, address, node, story.model, outcome)
        except KeyError:
            raise TryElsewhere(NoHealthyNode(f"node {node} was removed")) from None
        except CortexError:
            if not outcome.events:
                story.outcome = None
            raise
        finally:
            trailer = outcome.trailer
            known = (trailer.usage, trailer.timings) if trailer is not None else (None, None)
            self._steward.finished(replica.spot, *known)

    async def _note_failure(
        self, replica: ReplicaView, error: CortexError, story: Story, ticket: WaitingRequest
    ) -> None:
        """Avoid the node from now on, unless a fresh look at it shows that it was the view that was wrong."""
        log.warning(
            "attempt_failed",
            request=story.exchange.request_id,
            model=story.model,
            node=replica.node,
            code=error.code,
            error=str(error),
        )
        code, failed_at = error.code or str(error.status), time.perf_counter()
        attempt = Attempt(replica.node, story.asked_at, story.chosen_at, failed_at, code, words_of(error), story.said)
        story.failures = [*(story.failures or ()), attempt]
        if error.code in _STALE:
            await self._steward.look_at(replica.node)
            is_first = story.failed_on(replica.node) == 1
            restarted = error.code == "engine_failed" and is_first and not self._has_others(replica, ticket)
            if restarted or all(other.node != replica.node for other in self._steward.reconciler.ready(ticket.model)):
                return
        else:
            self._poller.nudge(replica.node)
        ticket.avoid.add(replica.node)
        if error.status == Overloaded.status and not self._has_others(replica, ticket):
            raise error

    def _has_others(self, replica: ReplicaView, ticket: WaitingRequest) -> bool:
        ready = self._steward.reconciler.ready(ticket.model)
        return any(other.node != replica.node and ticket.can_use(other) for other in ready)

    def _with_hints(self, error: CortexError, story: Story) -> CortexError:
        if isinstance(error, ModelNotFound) and story.caller is not None:
            near = self.catalogue.near(story.model, self._poller.view.models)
            return ModelNotFound(story.model, known_to(story.caller, near))
        return error

    def _pass_on(self, story: Story, usage: Usage) -> None:
        """Tell those who listen what was asked for, and never what was said."""
        exchange, now, seconds = story.exchange, time.time(), story.elapsed()
        key = session_key(exchange.head.header, read_prompt(exchange.body))
        self._feed.pass_on(
            now,
            "request",
            model=story.model,
            node=story.node,
            arrived=now - seconds,
            seconds=seconds,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            session=hashlib.sha256(key.encode()).hexdigest()[:SESSION_DIGITS] if key is not None else None,
            stream=story.stream,
            status=exchange.status,
        )
