"""What a neuron and its engine processes say to each other.

Each message is one msgpack object behind a four-byte big-endian length, on a Unix socket pair. Every message carries
the id of the request it belongs to; replies are matched by id, never by position.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from cortex.core.errors import EngineFailed

MAX_MESSAGE_BYTES = 256 << 20

Kind = Literal["chat", "completion", "embedding", "rerank"]


class Device(msgspec.Struct, frozen=True):
    """A device as an engine is told of it: `index` counts within the node; bytes are free now, and in all if known."""

    index: int
    kind: str
    name: str
    memory_free_bytes: int
    ordinal: int = 0
    memory_total_bytes: int = 0


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to load: a file or directory already on disk, and how; *vocabulary_only* is what counting tokens needs.

    *files* are what may be loaded beside: the model's own vision projector as `mmproj`, and each source that *options*
    name, by that name.
    """

    model: str
    engine: str
    path: str
    devices: tuple[Device, ...]
    context: int | None = None
    options: dict[str, Any] = {}
    files: dict[str, str] = {}
    vocabulary_only: bool = False


class ReplicaInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What was loaded. `context_tokens` is per request, and is what the engine enforces.

    `template_variables` are the names that a request can set in the model's chat template. `hints` say how a model is
    loaded for a capability that it could have and was not loaded for.
    """

    engine: str
    engine_version: str
    context_tokens: int
    slots: int
    capabilities: tuple[str, ...]
    simulated: bool = False
    memory_bytes: int | None = None
    notes: tuple[str, ...] = ()
    template_variables: tuple[str, ...] = ()
    hints: dict[str, str] = {}


class Estimate(msgspec.Struct, frozen=True):
    """What a model will take on each device, in bytes, before it is loaded."""

    bytes_per_device: dict[int, int]


class Usage(msgspec.Struct, frozen=True):
    """Token counts, as the engine counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Timings(msgspec.Struct, frozen=True):
    """Where the time of one request went, in milliseconds."""

    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    cached_tokens: int = 0


# to the engine process -----------------------------------------------------------------------------------------------


class Load(msgspec.Struct, tag=True, frozen=True):
    """Load *spec*; answered by Progress, then Loaded or Failed."""

    id: str
    spec: EngineSpec


class Measure(msgspec.Struct, tag=True, frozen=True):
    """Say what *spec* would take; answered by Estimated or Failed."""

    id: str
    spec: EngineSpec


class Generate(msgspec.Struct, tag=True, frozen=True):
    """Run one request, its body in the hub dialect; answered by Started, Progress and Chunks, then Finished or
    Failed.

    *choices* is how many sequences it decodes at once, each of which takes a slot.
    """

    id: str
    kind: Kind
    body: bytes
    choices: int = 1


class Tokenize(msgspec.Struct, tag=True, frozen=True):
    """Count and list tokens; answered by one Chunk, then Finished."""

    id: str
    body: bytes


class Abort(msgspec.Struct, tag=True, frozen=True):
    """Stop the request *id* wherever it is; answered by its Finished or Failed."""

    id: str


class Ping(msgspec.Struct, tag=True, frozen=True):
    """Answered by Pong."""

    id: str


class Shutdown(msgspec.Struct, tag=True, frozen=True):
    """Close the engine and exit."""

    id: str


# from the engine process ---------------------------------------------------------------------------------------------


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The process has imported its engine and listens; *device_kinds* are what this build can compute on."""

    id: str
    engine: str
    engine_version: str
    device_kinds: tuple[str, ...] = ()


class Loaded(msgspec.Struct, tag=True, frozen=True):
    """The model is ready to serve."""

    id: str
    info: ReplicaInfo


class Estimated(msgspec.Struct, tag=True, frozen=True):
    """The answer to Measure."""

    id: str
    estimate: Estimate


class Progress(msgspec.Struct, tag=True, frozen=True):
    """How far a load or a prefill is: *done* of *total* bytes, percent or tokens."""

    id: str
    stage: str
    done: int
    total: int
    cached: int = 0


class Started(msgspec.Struct, tag=True, frozen=True):
    """The request has its slot, and the engine is at work on it from now on."""

    id: str


class Chunk(msgspec.Struct, tag=True, frozen=True):
    """One JSON object of the answer in the hub dialect, as the client gets it."""

    id: str
    data: bytes


class Finished(msgspec.Struct, tag=True, frozen=True):
    """The request is over and its slot free; *reason* is OpenAI's finish reason, or `aborted`."""

    id: str
    reason: str
    usage: Usage
    timings: Timings


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The request failed and its slot is free. *status* is an HTTP status: 4xx blames the request, 5xx the engine."""

    id: str
    status: int
    message: str
    code: str | None = None
    param: str | None = None


class Pong(msgspec.Struct, tag=True, frozen=True):
    """The process is alive and its loop turns."""

    id: str


ToEngine = Load | Measure | Generate | Tokenize | Abort | Ping | Shutdown
FromEngine = Ready | Loaded | Estimated | Progress | Started | Chunk | Finished | Failed | Pong

_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_from_engine = msgspec.msgpack.Decoder(FromEngine)


def encode_message(message: ToEngine | FromEngine) -> bytes:
    """Return *message* with its length in front."""
    payload = _encoder.encode(message)
    return len(payload).to_bytes(4, "big") + payload


class Framer:
    """Split a byte stream into messages: `feed(bytes) -> list of payloads`."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that *data* completes. Raises EngineFailed on a length that cannot be right."""
        buffer = self._buffer
        buffer += data
        payloads: list[bytes] = []
        at = 0
        while len(buffer) - at >= 4:
            size = int.from_bytes(buffer[at : at + 4], "big")
            if size > MAX_MESSAGE_BYTES:
                raise EngineFailed(f"a message of {size} bytes on the engine socket: not our protocol")
            if len(buffer) - at - 4 < size:
                break
            payloads.append(bytes(buffer[at + 4 : at + 4 + size]))
            at += 4 + size
        del buffer[:at]
        return payloads


def decode_to_engine(payload: bytes) -> ToEngine:
    """Return the message in *payload*, on the engine's side. Raises EngineFailed."""
    try:
        message: ToEngine = _to_engine.decode(payload)
        return message
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EngineFailed(f"an unreadable message from the neuron: {error}") from None


def decode_from_engine(payload: bytes) -> FromEngine:
    """Return the message in *payload*, on the neuron's side. Raises EngineFailed."""
    try:
        message: FromEngine = _from_engine.decode(payload)
        return message
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EngineFailed(f"an unreadable message from the engine process: {error}") from None
