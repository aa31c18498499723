"""Small fleets and traces to simulate, and the strategies that make up many of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from cortex.core.model_spec import ModelSpec
from cortex.fleet.situation import Policy
from cortex.sim.description import Behaviour, Delays, Device, Fleet, Limits, Machine, Outage
from cortex.sim.trace import Arrival


def machine(name: str, *gigabytes: int, **keys: Any) -> Machine:
    """Return a node with a device of each size."""
    return Machine(name=name, devices=[Device(name="gpu", memory=f"{size} GB") for size in gigabytes], **keys)


def fleet(
    machines: list[Machine],
    models: dict[str, Behaviour],
    specs: dict[str, dict[str, Any]] | None = None,
    *,
    policy: Policy | None = None,
    limits: Limits | None = None,
) -> Fleet:
    """Return a fleet; *specs* has keys of the catalogue by model."""
    catalogue = {name: ModelSpec(id=name, **(specs or {}).get(name, {})) for name in models}
    return Fleet("test", tuple(machines), catalogue, {}, models, policy or Policy(), limits or Limits(), Delays())


def arrivals(model: str, *times: float, prompt: int = 100, completion: int = 50, **keys: Any) -> list[Arrival]:
    """Return a request at each of *times*."""
    return [Arrival(at=at, model=model, prompt_tokens=prompt, completion_tokens=completion, **keys) for at in times]


@st.composite
def _outages(draw: st.DrawFn) -> list[Outage]:
    begins = draw(st.integers(0, 200))
    ends = begins + draw(st.integers(1, 100)) if draw(st.booleans()) else None
    return [Outage(down_at=begins, up_at=ends, how=draw(st.sampled_from(["crash", "restart", "drain"])))]


@st.composite
def machines(draw: st.DrawFn, *, outages: bool) -> list[Machine]:
    """Return one to three nodes of one to three devices."""
    sizes = draw(st.lists(st.lists(st.sampled_from([8, 16, 24]), min_size=1, max_size=3), min_size=1, max_size=3))
    broken = [draw(_outages()) if outages and draw(st.booleans()) else [] for _ in sizes]
    unloads = [draw(st.sampled_from([0.0, 1.0, 20.0])) for _ in sizes]
    return [
        machine(f"n{number}", *size, outages=outage, unload_seconds=unload)
        for number, (size, outage, unload) in enumerate(zip(sizes, broken, unloads, strict=True))
    ]


def behaviours(*, honest: bool) -> st.SearchStrategy[Behaviour]:
    """Return how a model behaves; one that is not *honest* may take more than was estimated, or fail to load."""
    return st.builds(
        Behaviour,
        memory=st.sampled_from([f"{size} GB" for size in (2, 5, 7, 11, 15, 22, 40, 90)]),
        estimate=st.none() if honest else st.sampled_from([None, None, "unknown", "1 GB", "30 GB"]),
        load_seconds=st.sampled_from([0.0, 0.3, 5.0, 90.0]),
        slots=st.integers(1, 4),
        slowdown=st.sampled_from([0.0, 0.5]),
        fail_load=st.just("") if honest else st.sampled_from(["", "", "", "no such file"]),
    )


@st.composite
def specs(draw: st.DrawFn, names: list[str]) -> dict[str, Any]:
    """Return keys of the catalogue for a model on nodes of these *names*."""
    resident = draw(st.integers(0, 2))
    return {
        "priority": draw(st.sampled_from([50, 100, 200])),
        "pinned": draw(st.sampled_from([False, False, False, True])),
        "pinned_on": tuple(draw(st.sampled_from([[], [], [], names[:1]]))),
        "ttl": draw(st.sampled_from([None, 1, 30])),
        "min_resident": resident,
        "max_replicas": max(1, resident, draw(st.integers(1, 3))),
        "devices": draw(st.sampled_from(["auto", "auto", 1, 2])),
    }


@st.composite
def fleets(draw: st.DrawFn, *, outages: bool = True, honest: bool = False, equal: bool = False) -> Fleet:
    """Return a small fleet, too small for its models more often than not; if *equal*, any model may displace any."""
    nodes = draw(machines(outages=outages))
    models = {f"m{i}": draw(behaviours(honest=honest)) for i in range(draw(st.integers(1, 5)))}
    keys = {} if equal else {name: draw(specs([node.name for node in nodes])) for name in models}
    policy = Policy(
        strategy=draw(st.sampled_from(["lru", "priority"])),
        drain_after=draw(st.sampled_from([0.0, 10.0])),
        restore_after=draw(st.sampled_from([0.0, 20.0])),
        spread_after=draw(st.sampled_from([0.0, 3.0])),
        defrag_after_cycles=draw(st.sampled_from([0, 1, 3])),
        queue_depth=draw(st.sampled_from([0, 2, 64])),
        queue_seconds=draw(st.sampled_from([5.0, 60.0, 300.0])),
    )
    return fleet(nodes, models, keys, policy=policy)


@st.composite
def traces(draw: st.DrawFn, models: list[str]) -> list[Arrival]:
    """Return up to thirty requests, many of them at once."""
    lines = draw(
        st.lists(
            st.builds(
                Arrival,
                at=st.sampled_from([0.0, 0.1, 1.0, 5.0, 20.0, 100.0, 101.0, 250.0]) | st.floats(0, 300),
                model=st.sampled_from([*models, "nobody-knows-it"]),
                prompt_tokens=st.sampled_from([0, 1, 100, 20_000]),
                completion_tokens=st.sampled_from([0, 1, 50, 1000]),
                session=st.sampled_from([None, "a", "b"]),
                stream=st.booleans(),
            ),
            max_size=30,
        )
    )
    return sorted(lines, key=lambda arrival: arrival.at)
