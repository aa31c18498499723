"""The words are llama.cpp's, PyTorch's and the C++ library's own."""

from __future__ import annotations

import pytest

from cortex.neuron.out_of_memory import ran_out_of_memory, refused_bytes

MIB = 1 << 20
CUDA = (
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4096.50 MiB on device 0: cudaMalloc failed: out of memory"
)
CPU = "ggml_aligned_malloc: insufficient memory | alloc_tensor_range: failed to allocate CPU buffer of size 4294967296"
TORCH = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.50 GiB free"


@pytest.mark.parametrize(
    ("words", "bytes_"),
    [
        (CUDA, 4096 * MIB + MIB // 2),
        (CPU, 4096 * MIB),
        (TORCH, 2048 * MIB),
        (f"{CUDA} | {TORCH}", 4096 * MIB + MIB // 2),
        ("terminate called after throwing an instance of 'std::bad_alloc'", 0),
        ("OSError: [Errno 12] Cannot allocate memory", 0),
    ],
)
def test_an_engine_that_ran_out_of_memory_says_how_much_it_was_refused(words: str, bytes_: int) -> None:
    assert ran_out_of_memory(words, in_ram=False)
    assert refused_bytes(words) == bytes_


@pytest.mark.parametrize(
    "words", ["", "no such file", "options.memory_mb = -1: expected 0 or more", "ended with status 70"]
)
def test_other_last_words_are_not_about_memory(words: str) -> None:
    assert not ran_out_of_memory(words, in_ram=True)


def test_a_kill_means_want_of_memory_only_where_ram_is_what_was_loaded_into() -> None:
    words = "the engine process was ended by SIGKILL"

    assert ran_out_of_memory(words, in_ram=True)
    assert not ran_out_of_memory(words, in_ram=False)
