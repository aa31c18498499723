"""The parent's end of the socket to one engine process: whole messages out, replies to whoever asked, by id.

Every send and every wait has a deadline. A reply that nobody waits for any more is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import anyio
from anyio.abc import UNIXSocketStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from cortex.core.errors import EngineFailed, LoadFailed
from cortex.core.logging import get_logger
from cortex.wire.engine_api import (
    Abort,
    Estimated,
    Failed,
    Finished,
    FromEngine,
    Loaded,
    Started,
    ToEngine,
    encode_message,
)

log = get_logger(__name__)

# A child that takes nothing from its socket for so long has half a message, and can be sent no other.
SEND_SECONDS = 30.0
# How long a request that is left waits to hear that its slot is free; a step of a large prefill may take that long.
ABORT_SECONDS = 5.0
# A reader that far behind is not reading: its request is failed rather than its answer kept in memory.
MAX_INBOX = 20_000


class Channel:
    """Owns the socket, and an inbox for each request that waits.

    *give_up* is called with a reason when the socket can be used no more; it is to end the process.
    """

    def __init__(self, model: str, give_up: Callable[[str], None]) -> None:
        self.model = model
        self.ended: str | None = None
        self.stream: UNIXSocketStream
        self._give_up = give_up
        self._inboxes: dict[str, MemoryObjectSendStream[FromEngine]] = {}
        self._ids = count(1)
        self._write_lock = anyio.Lock()

    @property
    def waiting(self) -> int:
        """How many requests have an inbox."""
        return len(self._inboxes)

    def conversation(self, seconds: float, request_id: str = "", *, confirms_abort: bool = False) -> Conversation:
        """Return a new request, of which no reply may be later than *seconds* from now.

        Its id ends with *request_id*, so that an engine's own words can be told to be about it.
        """
        number = next(self._ids)
        id_ = f"{number}/{request_id}" if request_id else str(number)
        return Conversation(self, id_, seconds, confirms_abort=confirms_abort)

    async def send(self, message: ToEngine) -> None:
        """Send the whole of *message*. Raises LoadFailed if it cannot be written down, EngineFailed if nobody reads."""
        try:
            data = encode_message(message)
        except OverflowError:
            raise LoadFailed(f"a number in the spec of {self.model} has more than 64 bits") from None
        async with self._write_lock:
            # Half a message would garble all that follow: a send that began is ended, or ends with the process.
            with anyio.move_on_after(SEND_SECONDS, shield=True) as bound:
                try:
                    await self.stream.send(data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    raise self._is_gone() from None
            if bound.cancelled_caught:
                self._give_up(f"the engine process took nothing from its socket for {SEND_SECONDS:.0f} s")
                raise self._is_gone()

    def deliver(self, message: FromEngine) -> None:
        """Put a reply into its inbox, if there still is one."""
        inbox = self._inboxes.get(message.id)
        if inbox is None:
            return
        try:
            inbox.send_nowait(message)
        except anyio.WouldBlock:
            log.warning("reader_too_slow", model=self.model, held=MAX_INBOX)
            self._inboxes.pop(message.id).close()

    def end(self, reason: str) -> None:
        """Fail all that wait, and all that come."""
        self.ended = reason
        for inbox in self._inboxes.values():
            inbox.close()
        self._inboxes.clear()

    def open_inbox(self, id_: str) -> MemoryObjectReceiveStream[FromEngine]:
        """Return where the replies to *id_* come in. Raises EngineFailed."""
        if self.ended is not None:
            raise self._is_gone()
        send, receive = anyio.create_memory_object_stream[FromEngine](MAX_INBOX)
        self._inboxes[id_] = send
        return receive

    def close_inbox(self, id_: str) -> None:
        """Drop what else comes for *id_*."""
        inbox = self._inboxes.pop(id_, None)
        if inbox is not None:
            inbox.close()

    def _is_gone(self) -> EngineFailed:
        return EngineFailed(self.ended or "the engine process is gone", code="model_not_ready")


class Conversation:
    """One request to the child: an inbox for its id, a deadline, and an Abort when it is left early.

    With *confirms_abort* leaving it waits, within a bound, until the engine says that the request is over.
    """

    def __init__(self, channel: Channel, id_: str, seconds: float, *, confirms_abort: bool) -> None:
        self._channel, self.id = channel, id_
        self._deadline = anyio.current_time() + seconds
        self._confirms_abort = confirms_abort
        self._receive: MemoryObjectReceiveStream[FromEngine]
        self._is_over = False
        self.has_begun = False

    async def __aenter__(self) -> Conversation:
        self._receive = self._channel.open_inbox(self.id)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if not self._is_over and self._channel.ended is None:
                await self._abort()
        finally:
            self._channel.close_inbox(self.id)
            self._receive.close()

    def __aiter__(self) -> Conversation:
        return self

    async def __anext__(self) -> FromEngine:
        try:
            with anyio.fail_after(max(0.0, self._deadline - anyio.current_time())):
                return self._note(await self._receive.receive())
        except anyio.EndOfStream:
            raise StopAsyncIteration from None
        except TimeoutError:
            raise EngineFailed("the engine process did not answer in time") from None

    def _note(self, message: FromEngine) -> FromEngine:
        self.has_begun = self.has_begun or isinstance(message, Started)
        self._is_over = isinstance(message, Finished | Failed | Loaded | Estimated)
        return message

    async def _abort(self) -> None:
        began = anyio.current_time()
        with anyio.move_on_after(ABORT_SECONDS, shield=True) as bound:
            try:
                await self._channel.send(Abort(self.id))
                while self._confirms_abort and not self._is_over:
                    self._note(await self._receive.receive())
            except (EngineFailed, anyio.EndOfStream):
                return  # it died meanwhile: nothing is left to abort
        seconds = anyio.current_time() - began
        if bound.cancelled_caught:
            log.warning("abort_unconfirmed", model=self._channel.model, engine_request=self.id, waited_seconds=seconds)
        elif self._confirms_abort:
            log.debug("abort_done", model=self._channel.model, engine_request=self.id, elapsed_seconds=seconds)
