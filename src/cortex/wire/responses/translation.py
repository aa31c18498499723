"""One request of the Responses dialect on its way to OpenAI chat, and its answer on the way back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from cortex.core.errors import CortexError, UpstreamFailed
from cortex.wire import json
from cortex.wire.errors import ErrorBody
from cortex.wire.hub_stream import HubStream, decode_chunk
from cortex.wire.responses.answer import CUT_BY, Answer, State, failure_of
from cortex.wire.responses.growing import Event, head_of
from cortex.wire.responses.items import OutputItem
from cortex.wire.responses.output import Output
from cortex.wire.responses.request import Request, read_request
from cortex.wire.responses.stored import StoredResponse
from cortex.wire.sse import comment


def read_responses(
    body: bytes,
    *,
    response_id: str,
    created_at: int,
    previous: Sequence[msgspec.Raw] = (),
    references: Mapping[str, msgspec.Raw] | None = None,
) -> ResponsesTranslation:
    """Return *body*, a `POST /v1/responses`, as a translation. Raises BadRequest naming what is wrong.

    *response_id* begins with `resp_`; *created_at* is in Unix seconds. *previous* are the items of the response that
    the request continues (`previous_id`), *references* those that it names without sending them (`referenced_ids`).
    """
    return ResponsesTranslation(read_request(body, previous, references or {}), response_id, created_at)


class ResponsesTranslation:
    """See `wire.translation.Translation`. A finished one gives `output_items`, and `stored()` to go on from."""

    content_type = b"text/event-stream; charset=utf-8"

    def __init__(self, request: Request, response_id: str, created_at: int) -> None:
        self.model, self.stream, self.body, self.ignored = request.model, request.stream, request.body, request.ignored
        self.store, self.previous_id, self.cache_key = request.store, request.previous_id, request.prompt_cache_key
        self.response_id, self.created_at = response_id, created_at
        self._request = request
        self._answer = Answer(response_id, created_at, request.model, request.shown)
        self._output = Output(request, response_id)
        self._hub = HubStream()
        self._waiting = b""
        self._sequence = 0
        self._response: bytes | None = None

    @property
    def output_items(self) -> list[OutputItem]:
        """The items of the answer so far."""
        return self._output.items()

    def feed(self, data: bytes) -> bytes:
        """Return the events that *data*, a piece of the hub's stream, completes."""
        if self._response is not None:
            return b""
        told: list[bytes] = []
        try:
            for chunk in self._hub.feed(data):
                if not self._waiting:
                    told.append(self._begin())
                if chunk.error is not None:
                    told.append(self._fail(chunk.error))
                    break
                told += self._numbered(self._output.take(chunk))
            if self._hub.opening is not None and not self._waiting:
                told.append(self._begin())
        except UpstreamFailed as error:
            told.append(self._fail(error))
        return b"".join(told)

    def end(self) -> bytes:
        """Return the events that close a whole stream. One that never said why it finished was not whole, and fails."""
        if self._response is not None:
            return b""
        if self._output.finish_reason is None:
            return self._fail(UpstreamFailed("the answer ended before it was finished"))
        events = self._output.close()
        state, self._response = self._finished()
        return b"".join([*self._numbered(events), self._event(f"response.{state}", self._response)])

    def fail(self, error: CortexError) -> bytes:
        """Return `response.failed` with *error*, after `response.created` if nothing was said yet."""
        return self._fail(error) if self._response is None else b""

    def keep_alive(self, text: str) -> bytes:
        """Return *text* as a comment, and `response.in_progress`: some clients count only events as signs of life."""
        if self._response is not None:
            return b""
        told = self._event("response.in_progress", self._waiting) if self._waiting else self._begin()
        return comment(text) + told

    def whole(self, answer: bytes) -> bytes:
        """Return the hub's unary *answer* as a response. Raises UpstreamFailed if it is not one."""
        self._output.take(decode_chunk(answer))
        if self._output.finish_reason is None:
            raise UpstreamFailed("the node's answer has no message that was finished")
        self._output.close()
        _, self._response = self._finished()
        return self._response

    def stored(self) -> StoredResponse | None:
        """Return the response as it is kept, or None while it is not finished."""
        if self._response is None:
            return None
        return StoredResponse(
            id=self.response_id,
            created_at=self.created_at,
            model=self.model,
            input=tuple(item.copy() for item in self._request.items),
            output=tuple(msgspec.Raw(json.encode(item)) for item in self.output_items),
            response=msgspec.Raw(self._response),
        )

    def _begin(self) -> bytes:
        self._waiting = self._answer.write("in_progress")
        return self._event("response.created", self._waiting) + self._event("response.in_progress", self._waiting)

    def _fail(self, error: CortexError | ErrorBody) -> bytes:
        begun = b"" if self._waiting else self._event("response.created", self._answer.write("in_progress"))
        self._output.break_off()
        output, usage = self._output.items(), self._output.usage
        self._response = self._answer.write("failed", output, usage=usage, error=failure_of(error))
        return begun + self._event("response.failed", self._response)

    def _finished(self) -> tuple[State, bytes]:
        cut_by = CUT_BY.get(self._output.finish_reason or "")
        state: State = "incomplete" if cut_by else "completed"
        return state, self._answer.write(state, self._output.items(), usage=self._output.usage, cut_by=cut_by)

    def _event(self, kind: str, response: bytes) -> bytes:
        return b"".join(self._numbered([(head_of(kind), b',"response":%b}\n\n' % response)]))

    def _numbered(self, events: Iterable[Event]) -> list[bytes]:
        first = self._sequence
        told = [b"%b%d%b" % (head, number, rest) for number, (head, rest) in enumerate(events, first)]
        self._sequence += len(told)
        return told
