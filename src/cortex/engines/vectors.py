"""Embedding vectors as a client asked for them: shortened, as numbers or as base64. Pure.

Source: the OpenAI API reference (embeddings); Matryoshka representations, whose first numbers are an embedding too.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Sequence

from cortex.core.errors import BadRequest


def shortened(vector: Sequence[float], dimensions: int | None) -> Sequence[float]:
    """Return the first *dimensions* of *vector*, of length one again. Raises BadRequest if it has not as many."""
    if dimensions is None or dimensions == len(vector):
        return vector
    if dimensions > len(vector):
        raise BadRequest(f"dimensions: this model has {len(vector)}, not {dimensions}", param="dimensions")
    first = vector[:dimensions]
    length = math.sqrt(math.fsum(value * value for value in first)) or 1.0
    return [value / length for value in first]


def encoded(vector: Sequence[float], encoding: str | None) -> Sequence[float] | str:
    """Return *vector* as `encoding_format` wants it: base64 is of 32-bit floats, the lowest byte first."""
    if encoding == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return vector
