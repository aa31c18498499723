"""What the leader of a group and its other ranks say to each other, over one socket pair a rank.

Frames are those of `wire.engine_api`: a length, then one msgpack object. Every order has an id, and so has its answer:
an answer to an order that nobody waits for any more is dropped, never taken for another's.
"""

from __future__ import annotations

import msgspec


class ShardPlan(msgspec.Struct, frozen=True):
    """What every rank is told of the model: the same on each, so that they compute the same batches."""

    path: str
    dtype: str
    attention: str
    device: str
    threads: int
    ranks: int
    context: int
    slots: int
    batch: int
    prefix_cache: bool
    generates: bool = True


class Admit(msgspec.Struct, frozen=True):
    """A sequence that joins the batch: its prompt, how many tokens may follow, and which ones end it."""

    id: str
    prompt: list[int]
    limit: int
    stop_ids: list[int]


class Join(msgspec.Struct, tag=True, frozen=True):
    """Meet the other ranks in *directory*, and form a group that computes on *device* (`cpu` or `cuda`)."""

    id: int
    rank: int
    ranks: int
    directory: str
    device: str
    threads: int


class SelfCheck(msgspec.Struct, tag=True, frozen=True):
    """Add up one of every rank; the answer's value is the sum that this rank sees."""

    id: int


class Reduce(msgspec.Struct, tag=True, frozen=True):
    """Add up *size_bytes* of every rank, *rounds* times; the answer's value is the seconds of a round."""

    id: int
    size_bytes: int
    rounds: int


class LoadShard(msgspec.Struct, tag=True, frozen=True):
    """Load this rank's share of the model, and make its cache."""

    id: int
    plan: ShardPlan


class Step(msgspec.Struct, tag=True, frozen=True):
    """Let sequences in and out of the batch, and compute one step."""

    id: int
    admitted: list[Admit]
    cancelled: list[str]


class ResetCache(msgspec.Struct, tag=True, frozen=True):
    """Drop every sequence and all that is cached."""

    id: int


class Unload(msgspec.Struct, tag=True, frozen=True):
    """Let go of the model; the group stays."""

    id: int


class Leave(msgspec.Struct, tag=True, frozen=True):
    """Exit; not answered."""

    id: int


class Hello(msgspec.Struct, tag=True, frozen=True):
    """Answered at once by the rank's reading thread, whatever it computes."""

    id: int


class Done(msgspec.Struct, tag=True, frozen=True):
    """The order *id* is carried out."""

    id: int
    value: float = 0.0


class Broke(msgspec.Struct, tag=True, frozen=True):
    """The order *id* failed; what the rank holds is not to be trusted."""

    id: int
    message: str


class Here(msgspec.Struct, tag=True, frozen=True):
    """The answer to Hello."""

    id: int


Order = Join | SelfCheck | Reduce | LoadShard | Step | ResetCache | Unload | Leave | Hello
Answer = Done | Broke | Here

_encoder = msgspec.msgpack.Encoder()
_orders = msgspec.msgpack.Decoder(Order)
_answers = msgspec.msgpack.Decoder(Answer)


def encode(message: Order | Answer) -> bytes:
    """Return *message* with its length in front."""
    payload = _encoder.encode(message)
    return len(payload).to_bytes(4, "big") + payload


def decode_order(payload: bytes) -> Order:
    """Return the order in *payload*, on a rank's side."""
    order: Order = _orders.decode(payload)
    return order


def decode_answer(payload: bytes) -> Answer:
    """Return the answer in *payload*, on the leader's side."""
    answer: Answer = _answers.decode(payload)
    return answer
