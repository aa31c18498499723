"""Find, among what was decided, the loads that a request waited for, and say where their time went. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from cortex.fleet.work import Event

# A shorter while in which nothing could be planned is not worth a line.
HELD_SECONDS = 0.001
_ENDS = {"load_finished": "", "load_failed": "failed", "plan_dropped": "dropped"}


class Decided(NamedTuple):
    """Something that was decided, and when, by `time.perf_counter`."""

    at: float
    event: Event


class Step(msgspec.Struct, omit_defaults=True):
    """A part of a load: when it began, in seconds since the request came, and how long it took."""

    name: str
    at: float
    seconds: float
    note: str = ""


class Load(msgspec.Struct, omit_defaults=True):
    """A load that a request waited for.

    `at` is when it was first wanted, in seconds since the request came: below 0 if another had asked for it before.
    `failed` says what of, or that it was given up; `unfinished` that it went on when the request was over.
    """

    node: str
    cause: str
    why: str
    at: float
    seconds: float
    steps: list[Step]
    evicted: list[str] = []
    failed: str = ""
    unfinished: str = ""


@dataclass(slots=True)
class _Course:
    """One plan, from its commitment to what came of it."""

    planned: Decided
    started: Decided | None = None
    ended: Decided | None = None

    @property
    def wanted_at(self) -> float:
        return self.planned.at - float(self.planned.event.details.get("held_seconds", 0.0))


def loads_for(model: str, came: float, over: float, decided: Iterable[Decided]) -> list[Load]:
    """Return the loads of *model* that were under way between *came* and *over*, in order."""
    return [
        _told(course, came, over)
        for course in _courses(model, decided)
        if course.wanted_at <= over and (course.ended is None or course.ended.at >= came)
    ]


def _courses(model: str, decided: Iterable[Decided]) -> list[_Course]:
    """Return the plans for *model*, each with what came of it."""
    courses: list[_Course] = []
    open_at: dict[str, _Course] = {}
    for one in decided:
        event = one.event
        if event.model != model:
            continue
        if event.kind == "planned":
            open_at[event.node] = _Course(one)
            courses.append(open_at[event.node])
        elif event.node in open_at and event.kind == "load_started":
            open_at[event.node].started = one
        elif event.node in open_at and event.kind in _ENDS:
            open_at.pop(event.node).ended = one
    return courses


def _told(course: _Course, came: float, over: float) -> Load:
    details, end = course.planned.event.details, course.ended
    until = end.at if end is not None else over
    outcome = _ENDS[end.event.kind] if end is not None else ""
    return Load(
        node=course.planned.event.node,
        cause=str(details.get("cause", "")),
        why=course.planned.event.reason,
        at=course.wanted_at - came,
        seconds=until - course.wanted_at,
        steps=list(_steps(course, came, until)),
        evicted=list(details.get("plan", {}).get("evicts", ())),
        failed=f"{outcome}: {end.event.reason}" if end is not None and outcome else "",
        unfinished="it went on" if end is None else "",
    )


def _steps(course: _Course, came: float, until: float) -> Iterator[Step]:
    details, planned = course.planned.event.details, course.planned.at
    held = float(details.get("held_seconds", 0.0))
    if held >= HELD_SECONDS:
        yield Step("held", course.wanted_at - came, held, str(details.get("held", "")))
    evicted = ", ".join(details.get("plan", {}).get("evicts", ()))
    if course.started is None:
        yield Step("making room" if evicted else "memory", planned - came, until - planned, evicted)
        return
    waited = course.started.event.details
    unload = float(waited.get("unload_seconds", 0.0))
    if evicted:
        yield Step("eviction", planned - came, unload, evicted)
    yield Step("memory", planned - came + unload, float(waited.get("memory_seconds", 0.0)), "seen to be free")
    yield from _loading(course, course.started.at - came, until - came)


def _loading(course: _Course, began: float, until: float) -> Iterator[Step]:
    """Yield the load itself, stage by stage as far as its node told."""
    stages = course.ended.event.details.get("stages", ()) if course.ended is not None else ()
    whole = until - began
    yield Step("load", began, whole, course.planned.event.node)
    for stage in stages:
        yield Step(f"load: {stage['stage']}", began, stage["seconds"], _share(stage["seconds"], whole))
        began += stage["seconds"]


def _share(seconds: float, whole: float) -> str:
    return f"{100 * seconds / whole:.0f}% of the load" if whole > 0 else ""
