"""One request that has ended, as the data path hands it over: a few references, nothing of what was said."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from cortex.fleet.route import Choice
from cortex.wire.engine_api import Usage
from cortex.wire.sse import Trailer

LEFT = 499


class Attempt(NamedTuple):
    """A replica that was tried and gave no answer, or only the first pieces; times are by `time.perf_counter`.

    *asked_at* is when a replica was wished for, *chosen_at* when there was one. *reason* is empty where the words
    might be the client's own. Of the answer, *said* pieces had come before it failed, from it and those before it.
    """

    node: str
    asked_at: float
    chosen_at: float
    failed_at: float
    code: str
    reason: str
    said: int = 0


class Record(msgspec.Struct):
    """What happened to one request; times are by `time.perf_counter`, in seconds.

    - `asked`, `model`: the name that the client gave, and the model's id; `label`: the latter if it is known to be one.
    - `asked_at`, `chosen_at`: when the last replica was wished for, and when there was one; 0 if that never came.
    - `wait_seconds`: spent waiting for replicas, in all attempts; `place`: in the queue, 0 if it did not wait.
    - `sent_at`: when the node had the request, 0 if none had; `events`: what came back.
    - `status`: what was answered, `LEFT` if the client was gone before; `code`: of what it ended in, if in an error.
    - `limit`: the longest answer that was asked for, in tokens, if any; `paid`: what the key paid;
      `let_in`: whether it was let in with it, None if it did not come so far.
    """

    id: str
    path: str
    key: str | None
    asked: str
    model: str
    label: str
    node: str
    stream: bool
    arrived: float
    ended: float
    asked_at: float
    chosen_at: float
    wait_seconds: float
    place: int
    attempts: int
    failures: list[Attempt] | None
    choice: Choice | None
    sent_at: float
    events: int
    trailer: Trailer | None
    status: int
    code: str | None
    reason: str
    limit: int | None
    paid: Usage | None
    let_in: bool | None
    received_bytes: int
    sent_bytes: int
    traceparent: str | None

    @property
    def continued(self) -> int:
        """How often another replica went on with what one had begun."""
        return sum(attempt.said > 0 for attempt in self.failures or ())

    @property
    def seconds(self) -> float:
        """From its arrival to its last byte."""
        return self.ended - self.arrived

    @property
    def left(self) -> bool:
        """Whether its client did not wait for the answer."""
        return self.status == LEFT

    @property
    def went_well(self) -> bool:
        """Whether its client was there for a whole answer."""
        return self.code is None and self.status != LEFT

    @property
    def first_token_seconds(self) -> float | None:
        """From its arrival to the first token: the way to the node, then what the node says that it took.

        That is a token of the answer, not the empty chunk that opens a chat.
        """
        if self.trailer is None or not self.sent_at:
            return None
        timings = self.trailer.timings
        return self.sent_at - self.arrived + (timings.queue_ms + timings.prefill_ms) / 1000

    @property
    def gap_seconds(self) -> float | None:
        """The mean time between two tokens of the answer."""
        if self.trailer is None or self.trailer.usage.completion_tokens < 2 or self.trailer.timings.decode_ms <= 0:
            return None
        return self.trailer.timings.decode_ms / 1000 / (self.trailer.usage.completion_tokens - 1)
