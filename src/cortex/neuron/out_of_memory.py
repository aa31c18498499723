"""Read from how an engine ended whether it ran out of memory, and how much it had asked for. Pure."""

from __future__ import annotations

import re

_RAN_OUT = re.compile(r"out ?of ?memory|bad_alloc|(failed|unable|cannot) to allocate|cannot allocate", re.IGNORECASE)
# llama.cpp: "allocating 4096.00 MiB on device 0", "failed to allocate CUDA0 buffer of size 4294967296".
# PyTorch: "Tried to allocate 2.00 GiB".
_ASKED = re.compile(
    r"(?:allocat(?:e|ing)|buffer of size) (?P<amount>\d+(?:\.\d+)?)(?: ?(?P<unit>[KMG])i?B)?", re.IGNORECASE
)
_UNIT_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def ran_out_of_memory(words: str, *, in_ram: bool) -> bool:
    """Whether *words* say so; a load *in_ram* that is killed was in all likelihood killed for want of it."""
    return _RAN_OUT.search(words) is not None or (in_ram and "SIGKILL" in words)


def refused_bytes(words: str) -> int:
    """Return the largest allocation that *words* speak of; 0 if of none."""
    return max((_bytes_of(match) for match in _ASKED.finditer(words)), default=0)


def _bytes_of(match: re.Match[str]) -> int:
    return int(float(match["amount"]) * _UNIT_BYTES.get((match["unit"] or "").upper(), 1))
