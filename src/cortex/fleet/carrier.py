"""Carries plans out, step by step, and owns the work in progress: what becomes of it, its caller decides."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Set
from typing import Any, Literal

from cortex.core.errors import CortexError, ModelNotFound, ModelNotReady, NoHealthyNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.effects import Effects
from cortex.fleet.learned import Learned
from cortex.fleet.plan import Plan
from cortex.fleet.presence import Presence
from cortex.fleet.situation import Commitment
from cortex.fleet.view import Spot
from cortex.fleet.work import Event, Job, Work, describe_plan, missing_bytes

# Memory that does not come back for so long after an unload will not come back by waiting.
SETTLE_SECONDS = 15.0
# A model that was loaded must be seen on its node within this.
CONFIRM_SECONDS = 10.0
REMEMBERED_EVENTS = 2000

Outcome = Literal["done"] | CortexError
"""How work ended: the replica is there, or what it failed of."""


class Carrier:
    """The work by node, oldest first, and the latest of what was done and said."""

    def __init__(self, effects: Effects, presence: Presence, learned: Learned) -> None:
        self._effects, self._presence, self._learned = effects, presence, learned
        self._works: dict[str, list[Work]] = {}
        self.events: deque[Event] = deque(maxlen=REMEMBERED_EVENTS)

    @property
    def nodes(self) -> Set[str]:
        """Where there is work."""
        return self._works.keys()

    def on(self, node: str) -> tuple[Work, ...]:
        """Return the work on *node*, oldest first."""
        return tuple(self._works.get(node, ()))

    def commitments(self) -> dict[str, tuple[Commitment, ...]]:
        """Return the bytes that the work on each node counts on."""
        return {
            node: tuple(Commitment(work.plan.model, work.plan.bytes_by_device) for work in works)
            for node, works in self._works.items()
        }

    def begin(self, job: Job, plan: Plan, now: float) -> None:
        """Begin to carry *plan* out for *job*: victims first, then a fresh look at the memory."""
        work = job.work = Work(plan, job, now, "unloading" if plan.victims else "looking", set(plan.victims), now)
        self._works.setdefault(plan.node, []).append(work)
        details = {
            "cause": job.cause,
            "plan": describe_plan(plan),
            "held": job.held,
            "held_seconds": now - job.since,
        }
        job.held = ""
        self.note(now, "planned", job.model, plan.node, plan.reason, details)
        for spot in plan.victims:
            anew = spot == work.spot
            reason = plan.reason if anew else f"makes room for {plan.model}"
            self.remove(spot, *(("unloaded", "renewed") if anew else ("evicted", "room")), reason, now)
        if not plan.victims:
            self._effects.look(plan.node)

    def remove(self, spot: Spot, kind: str, cause: str, reason: str, now: float) -> None:
        """Give the replica at *spot* no more work, and have it unloaded."""
        self._presence.leaves(spot)
        self.note(now, kind, spot[1], spot[0], reason, {"cause": cause})
        self._effects.unload(spot)

    def unloaded(self, spot: Spot, error: CortexError | None, now: float) -> None:
        """Take note that *spot* has been unloaded, or that its node could not be brought to it."""
        if error is None:
            self._presence.gone(spot, now)
        else:
            self._presence.stays(spot)
            self.note(now, "unload_failed", spot[1], spot[0], str(error))
        for work in self._works.get(spot[0], ()):
            if spot in work.pending:
                work.pending.discard(spot)
                if not work.pending:
                    work.phase, work.phase_since = "looking", now
        self._effects.look(spot[0])

    def step(self, work: Work, spec: ModelSpec | None, now: float) -> Outcome | None:
        """Go on with *work* by a fresh view of its node; return how it ended, None while it goes on or is dropped."""
        if work.phase == "looking":
            return self._load_if_fits(work, spec, now)
        return self._confirm(work, now) if work.phase == "confirming" else None

    def _load_if_fits(self, work: Work, spec: ModelSpec | None, now: float) -> Outcome | None:
        """Load, once the memory that the plan counts on is seen to be free."""
        plan, node = work.plan, self._presence.view.by_name.get(work.plan.node)
        if node is None or not node.healthy:
            return NoHealthyNode(f"{plan.node} went away")
        if spec is None:
            return ModelNotFound(plan.model)
        if node.seen_at < work.phase_since:
            return None  # it did not answer this time: it is asked again, until it does or is taken for dead
        missing = missing_bytes(work, self._works[plan.node], node)
        if not missing:
            waited = {"unload_seconds": work.phase_since - work.since, "memory_seconds": now - work.phase_since}
            work.phase, work.phase_since = "loading", now
            self.note(now, "load_started", plan.model, plan.node, plan.reason, waited)
            self._effects.load(spec, plan)
        elif not plan.victims or now - work.phase_since > SETTLE_SECONDS:
            self.drop(work, missing, now)
        return None

    def loaded(self, spot: Spot, error: CortexError | None, now: float) -> Work | None:
        """Take note of how the load at *spot* ended; return the work that it belongs to, if it was ours."""
        work = next((w for w in self._works.get(spot[0], ()) if w.spot == spot and w.phase == "loading"), None)
        if work is None:
            return None
        seconds = now - work.phase_since
        if error is None:
            self._learned.took(spot, seconds)
            self.note(now, "load_finished", spot[1], spot[0], work.plan.reason, {"seconds": seconds})
            work.phase, work.phase_since = "confirming", now
            self._effects.look(spot[0])
        else:
            self.note(now, "load_failed", spot[1], spot[0], str(error), {"code": error.code, "seconds": seconds})
        return work

    def _confirm(self, work: Work, now: float) -> Outcome | None:
        """Return that the replica is seen, or why it will not be."""
        node, replica = self._presence.view.by_name.get(work.plan.node), self._presence.replica(work.spot)
        if node is None or not node.healthy:
            return NoHealthyNode(f"{work.plan.node} went away")
        if replica is not None and replica.state == "ready":
            return "done"
        if (replica is not None and replica.state == "failed") or now - work.phase_since > CONFIRM_SECONDS:
            state = replica.state if replica is not None else "gone"
            return ModelNotReady(f"{work.plan.model} was loaded on {work.plan.node}, and is {state}")
        return None

    def drop_changed(self, models: Iterable[str], now: float) -> None:
        """Drop the work on *models*, which are defined otherwise now, as far as nothing is loaded yet."""
        changed = set(models)
        for work in [work for works in self._works.values() for work in works]:
            if work.plan.model in changed and work.phase in ("unloading", "looking"):
                self.drop(work, f"{work.plan.model} is defined otherwise now", now)

    def drop(self, work: Work, reason: str, now: float) -> None:
        """Give a plan up that is not to be carried out after all; its job finds another if somebody waits."""
        self.note(now, "plan_dropped", work.plan.model, work.plan.node, reason)
        self.close(work)

    def close(self, work: Work) -> None:
        """Forget *work*: its job has none any more."""
        works = self._works[work.plan.node]
        works.remove(work)
        if not works:
            del self._works[work.plan.node]
        work.job.work = None

    def note(
        self, now: float, kind: str, model: str, node: str, reason: str, details: Mapping[str, Any] | None = None
    ) -> None:
        """Keep and tell what was decided, or came of it."""
        event = Event(now, kind, model, node, reason, details or {})
        self.events.append(event)
        self._effects.note(event)
