"""Say what would happen to a request for a model now, and why: the decisions, with all that they rejected. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cortex.fleet.doors import Doors
from cortex.fleet.pace import Shape
from cortex.fleet.place import Candidate, explain
from cortex.fleet.refusals import awaited, uncatalogued
from cortex.fleet.route import Ranked, ranking
from cortex.fleet.situation import Situation
from cortex.fleet.work import Job, describe_plan


def explain_model(model: str, situation: Situation, doors: Doors, job: Job | None) -> dict[str, Any]:
    """Return, as plain values, what would be done for *model*; bytes and seconds are named as such.

    `decision` says it in a word (`serve`, `queue`, `load`, `wait` or `refuse`) and `summary` in a sentence. `replicas`
    are ranked as a request would be routed, `candidates` as one more replica would be placed.
    """
    spec = situation.catalogue.get(model)
    ranked = _ranked(model, situation, doors)
    candidates = explain(spec, situation) if spec is not None else ()
    decision, summary = _decision(model, situation, ranked, candidates, job)
    return {
        "model": model,
        "decision": decision,
        "summary": summary,
        "catalogued": spec is not None,
        "priority": spec.priority if spec is not None else None,
        "strategy": situation.policy.strategy,
        "waiting": len(doors.waiting(model)),
        "job": _job(job, situation.now),
        "replicas": [_replica(entry, situation) for entry in ranked],
        "candidates": [_candidate(candidate) for candidate in candidates],
    }


def _ranked(model: str, situation: Situation, doors: Doors) -> tuple[Ranked, ...]:
    return ranking(
        situation.ready(model),
        flights=situation.flights,
        paces=doors.paces,
        shape=doors.shapes.get(model, Shape()),
        warm={},
    )


def _decision(
    model: str, situation: Situation, ranked: tuple[Ranked, ...], candidates: tuple[Candidate, ...], job: Job | None
) -> tuple[str, str]:
    if ranked and ranked[0].eligible:
        best = ranked[0]
        return "serve", f"{best.replica.node} serves it: done in about {best.expected_seconds:.1f} s"
    if ranked:
        return "queue", "every replica is full: it waits for the first slot that is free"
    if job is not None:
        return "wait", f"a replica is on its way: {job.work.plan.reason if job.work else job.held}"
    spec = situation.catalogue.get(model)
    if spec is None:
        return "refuse", uncatalogued(model, situation).message
    decision, summary = _placing(candidates)
    if decision == "refuse" and (back := awaited(spec, situation)):
        return "wait", f"it waits for {', '.join(back)} to come back from a restart"
    return decision, summary


def _placing(candidates: tuple[Candidate, ...]) -> tuple[str, str]:
    best = candidates[0] if candidates else None
    if best is None or best.verdict == "never":
        reasons = "; ".join(f"{candidate.node}: {candidate.reason}" for candidate in candidates[:8])
        return "refuse", f"no node can serve it: {reasons or 'there is no node'}"
    if best.plan is None or best.verdict == "drain":
        return "wait", f"it waits: {best.node}: {best.reason}"
    gone = f" after unloading {', '.join(name for _, name in best.plan.victims)}" if best.plan.victims else ""
    return "load", f"it is loaded on {best.node}{gone}: {best.plan.reason}"


def _job(job: Job | None, now: float) -> dict[str, Any] | None:
    if job is None:
        return None
    work = job.work
    return {
        "cause": job.cause,
        "seconds": round(now - job.since, 3),
        "held": job.held,
        "avoids": {node: str(error) for node, error in job.avoid.items()},
        "phase": work.phase if work is not None else None,
        "plan": describe_plan(work.plan) if work is not None else None,
    }


def _replica(entry: Ranked, situation: Situation) -> dict[str, Any]:
    replica = entry.replica
    return {
        "node": replica.node,
        "expected_seconds": round(entry.expected_seconds, 3),
        "in_flight": entry.flights,
        "slots": entry.slots,
        "idle_seconds": round(max(0.0, situation.now - situation.last_used(replica)), 1),
        "note": entry.note,
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    devices: list[Mapping[str, Any]] = [room._asdict() for room in candidate.devices]
    return {
        "node": candidate.node,
        "verdict": candidate.verdict,
        "reason": candidate.reason,
        "devices": devices,
        "plan": describe_plan(candidate.plan) if candidate.plan is not None else None,
        "obstacles": list(candidate.obstacles),
    }
