"""The run loop's mind: gives requests replicas, and carries plans out step by step. Owns jobs and work in progress.

It does no I/O and reads no clock. Facts come in as calls with the time they are told at; what is to be done goes out
through `Effects`, whose results come back as calls. The gateway and the simulator drive the same object.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from cortex.core.errors import Conflict, CortexError, ModelNotFound, ModelNotReady, NoHealthyNode, ServiceError
from cortex.core.model_spec import DEFAULT_PRIORITY, ModelSpec
from cortex.fleet.doors import Doors, Ticket
from cortex.fleet.effects import Effects
from cortex.fleet.learned import Learned
from cortex.fleet.place import Placement, consider, no_place, place
from cortex.fleet.plan import Plan
from cortex.fleet.refusals import awaited, uncatalogued
from cortex.fleet.route import Choice
from cortex.fleet.situation import Commitment, Need, Policy, Situation
from cortex.fleet.tend import Chore, Renew, Unload, Want, chores
from cortex.fleet.view import FleetView, NodeView, ReplicaView, Spot
from cortex.fleet.work import Cause, Event, Job, Work, describe_plan, missing_bytes
from cortex.wire.engine_api import Timings, Usage

# Memory that does not come back for so long after an unload will not come back by waiting.
SETTLE_SECONDS = 15.0
# A model that was loaded must be seen on its node within this.
CONFIRM_SECONDS = 10.0
# A node may turn out to have no memory for a plan after all; so often is it planned for again.
MAX_TRIES = 3
# So many nodes may fail to load a model before it is the model that is taken to be broken.
MAX_FAILURES = 2
# What nobody waits for is not loaded again so soon after a load of it failed, or found no room.
CHORE_PAUSE_SECONDS, CHORE_RETRY_SECONDS = 30.0, 5.0
REMEMBERED_EVENTS = 2000
# By these a node says that another may do better; they say nothing against the model.
_ELSEWHERE = frozenset(
    {"no_feasible_node", "no_healthy_node", "shutting_down", "upstream_connection_error", "upstream_timeout"}
)


class Reconciler:
    """Owns the jobs, the work in progress and what is leaving; the doors and what was learned are its parts."""

    def __init__(self, effects: Effects, catalogue: Mapping[str, ModelSpec], policy: Policy) -> None:
        self._effects, self._catalogue, self._policy = effects, catalogue, policy
        self._view = FleetView()
        self.doors, self.learned = Doors(), Learned()
        self.events: deque[Event] = deque(maxlen=REMEMBERED_EVENTS)
        self._jobs: dict[str, Job] = {}
        self._works: dict[str, list[Work]] = {}
        self._leaving: dict[Spot, float | None] = {}
        self._foreign: dict[Spot, int] = {}
        self._restarting: dict[str, float] = {}
        self._cycles: Counter[str] = Counter()
        self._renewed: set[Spot] = set()
        self._rests_until: dict[str, float] = {}
        self._ready: dict[str, tuple[tuple[ReplicaView, ...], tuple[ReplicaView, ...]]] = {}

    # requests ---------------------------------------------------------------------------------------------------------

    def ask(self, ticket: Ticket, now: float) -> Choice | None:
        """Return a replica for *ticket* at once, or None: it waits, and hears through the effects.

        Raises what refuses it: too many wait already.
        """
        choice = self.at_once(ticket, now)
        if choice is not None:
            return choice
        model = ticket.model
        refusal = self.doors.admit(ticket, [r for r in self.ready(model) if ticket.can_use(r)], self._policy)
        if refusal is not None:
            raise refusal
        self._serve(model, now)
        return None

    def at_once(self, ticket: Ticket, now: float) -> Choice | None:
        """Return a replica for *ticket* if one is free and nobody waits for it; else None, and nothing has happened."""
        model = ticket.model
        return None if self.doors.waits(model) else self.doors.choose(ticket, self.ready(model), now)

    def leave(self, ticket: Ticket) -> None:
        """Forget *ticket*, whose client went away while it waited. A load that was begun for it goes on."""
        self.doors.leave(ticket)

    def finished(self, spot: Spot, now: float, usage: Usage | None = None, timings: Timings | None = None) -> None:
        """Take note that a request at *spot* is over, how fast it was, and that a slot is free."""
        self.doors.finished(spot, now, usage, timings)
        if self.doors.waits(spot[1]):
            self._serve(spot[1], now)
        if spot not in self.doors.flights:
            self._advance_on(spot[0], now)

    def let_go(self, model: str, reason: str, now: float) -> None:
        """Unload what is idle of *model*, down to what is to be resident, and nothing that is pinned."""
        spec, ready, moment = self._catalogue.get(model), self.ready(model), self.situation(now)
        keep = spec.min_resident if spec is not None else 0
        pinned = [r for r in ready if spec is not None and spec.is_pinned_on(r.node)]
        idle = [r for r in ready if r not in pinned and not moment.busy(r.spot)]
        for replica in sorted(idle, key=moment.last_used)[: max(0, len(ready) - keep)]:
            self._remove(replica.spot, "unloaded", "client", reason, now)

    # orders -----------------------------------------------------------------------------------------------------------

    def carry_out(self, plan: Plan, now: float) -> None:
        """Load by an operator's *plan*, whoever waits for that or not. Raises Conflict if a load is under way."""
        job = self._jobs.get(plan.model)
        if job is not None and job.work is not None:
            raise Conflict(f"{plan.model} is on its way already: {self._doing(job)}")
        spec = self._catalogue.get(plan.model)
        if job is None:
            rank = spec.priority if spec is not None else DEFAULT_PRIORITY
            job = self._jobs[plan.model] = Job(plan.model, "order", now, rank)
        self._commit(job, plan, Placement(plan), now)

    def unload(self, spot: Spot, now: float) -> None:
        """Drain the replica at *spot* and unload it: an operator wants it gone."""
        self._remove(spot, "unloaded", "order", "an operator unloads it", now)

    def ready(self, model: str) -> tuple[ReplicaView, ...]:
        """Return the replicas that may be given work; kept until the view of them or what is leaving changes."""
        there = self._view.by_model.get(model)
        if there is None:
            return ()
        known = self._ready.get(model)
        if known is None or known[0] is not there:
            known = self._ready[model] = (there, self.situation(0.0).ready(model))
        return known[1]

    def _serve(self, model: str, now: float) -> None:
        """Give those who wait for *model* what is free; see to a replica for those who can use none that there is."""
        for ticket, choice in self.doors.serve(model, self.ready(model), now):
            self._effects.serve(ticket, choice)
        if model not in self._jobs and (stranded := self._stranded(model)):
            self._want(model, stranded[0], now)

    def _stranded(self, model: str) -> list[Ticket]:
        """Return those who wait for *model* and can use no replica that there is."""
        ready = self.ready(model)
        return [t for t in self.doors.waiting(model) if not any(t.can_use(replica) for replica in ready)]

    # jobs -------------------------------------------------------------------------------------------------------------

    def _want(self, model: str, ticket: Ticket, now: float) -> None:
        """Begin to see to it that *model* gets a replica that *ticket* can use."""
        spec = self._catalogue.get(model)
        job = Job(model, "request", now, spec.priority if spec is not None else DEFAULT_PRIORITY)
        job.shuns = frozenset(ticket.avoid)
        job.avoid = {node: NoHealthyNode(f"{node} failed this request just now") for node in sorted(ticket.avoid)}
        self._jobs[model] = job
        self._try(job, now)

    def _advance(self, now: float) -> None:
        """Look again at every job that has no plan, the most important and then the oldest first."""
        waiting = [job for job in self._jobs.values() if job.work is None]
        for job in sorted(waiting, key=lambda job: (-job.rank, job.since, job.model)):
            if job.work is None and self._jobs.get(job.model) is job:
                self._try(job, now)

    def _advance_on(self, node: str, now: float) -> None:
        """Look again at every job that is held, as far as a change on *node* can help it: a large fleet is never still.

        What makes a job impossible, or changes why it is held, is found at the next tick.
        """
        held, view = [job for job in self._jobs.values() if job.work is None], self._view.by_name.get(node)
        if view is not None:
            for job in sorted(held, key=lambda job: (-job.rank, job.since, job.model)):
                self._try_on(view, job, now)

    def _try_on(self, node: NodeView, job: Job, now: float) -> None:
        spec = self._catalogue.get(job.model)
        if spec is None or node.name in job.avoid or not self.learned.knows((node.name, job.model)):
            self._try(job, now)
            return
        if self._coming(job.model) is not None or not self._stranded(job.model):
            return
        plan = consider(spec, node, self.situation(now), may_drain=self._may_drain(job, now)).plan
        if plan is not None:
            self._commit(job, plan, Placement(plan), now)

    def _try(self, job: Job, now: float) -> None:
        """Commit to a plan for *job*, note what holds it, or end it: nobody waits any more, or it is impossible."""
        if not self._stranded(job.model):
            self._end(job, None, now)
            return
        job.cause = "request"
        spec, situation = self._catalogue.get(job.model), self.situation(now)
        coming = self._coming(job.model)
        if coming is not None:
            job.held = f"{coming.node} is loading it{f' ({coming.progress})' if coming.progress else ''}"
        elif spec is None:
            self._end(job, uncatalogued(job.model, situation), now)
        elif self._estimating(spec):
            job.held = "the nodes are being asked what it needs"
        else:
            self._plan(job, spec, situation)

    def _plan(self, job: Job, spec: ModelSpec, situation: Situation) -> None:
        placement = self._place(job, spec, situation)
        held = [f"{node}: {reason}" for node, reason in placement.held]
        held += [f"{node} is restarting" for node in awaited(spec, situation)]
        if placement.plan is not None:
            self._commit(job, placement.plan, placement, situation.now)
        elif held:
            job.held = "; ".join(held)
        else:
            last = next(reversed(job.avoid.values()), None)
            self._end(job, last or no_place(spec, situation, placement), situation.now)

    def _place(self, job: Job, spec: ModelSpec, situation: Situation) -> Placement:
        urgent = job.cause in ("request", "move")
        return place(
            spec,
            situation,
            may_evict=job.cause != "spread",
            may_drain=urgent and self._may_drain(job, situation.now),
            avoid=job.avoid.keys(),
            victims_idle_for=0.0 if urgent else self._policy.restore_after,
            unasked=not urgent,
        )

    def _may_drain(self, job: Job, now: float) -> bool:
        """Whether *job* has waited for so long that what is never idle is drained for it."""
        return now - job.since >= self._policy.drain_after

    def _coming(self, model: str) -> ReplicaView | None:
        """Return a replica of *model* that is loading, on whoever's word."""
        return next((replica for replica in self._view.replicas_of(model) if replica.state == "loading"), None)

    def _end(self, job: Job, error: CortexError | None, now: float) -> None:
        """Close *job*; if it failed, so do those who can use nothing that there is, and no node that it did not try."""
        del self._jobs[job.model]
        if error is None:
            return
        refused = [ticket for ticket in self._stranded(job.model) if ticket.avoid >= job.shuns]
        for ticket in refused:
            self.doors.leave(ticket)
            self._effects.refuse(ticket, error)
        if refused and isinstance(error, ServiceError):
            self._note(now, "refused", job.model, "", str(error), {"code": error.code})
        self._serve(job.model, now)

    # work -------------------------------------------------------------------------------------------------------------

    def _commit(self, job: Job, plan: Plan, placement: Placement, now: float) -> None:
        """Begin to carry *plan* out: victims first, then a fresh look at the memory."""
        work = job.work = Work(plan, job, now, "unloading" if plan.victims else "looking", set(plan.victims), now)
        self._works.setdefault(plan.node, []).append(work)
        rejected = dict((*placement.rejected, *placement.held))
        details = {
            "cause": job.cause,
            "plan": describe_plan(plan),
            "rejected": rejected,
            "held": job.held,
            "held_seconds": now - job.since,
        }
        job.held = ""
        self._note(now, "planned", job.model, plan.node, plan.reason, details)
        for spot in plan.victims:
            anew = spot == work.spot
            reason = plan.reason if anew else f"makes room for {plan.model}"
            self._remove(spot, *(("unloaded", "renewed") if anew else ("evicted", "room")), reason, now)
        if not plan.victims:
            self._effects.look(plan.node)

    def _remove(self, spot: Spot, kind: str, cause: str, reason: str, now: float) -> None:
        """Give the replica at *spot* no more work, and have it unloaded."""
        self._leaving[spot] = None
        self._ready.pop(spot[1], None)
        self._note(now, kind, spot[1], spot[0], reason, {"cause": cause})
        self._effects.unload(spot)

    def unloaded(self, spot: Spot, error: CortexError | None, now: float) -> None:
        """Take note that *spot* has been unloaded, or that its node could not be brought to it."""
        if error is None:
            self._leaving[spot] = now
            self._cycles[spot[0]] += 1
        else:
            self._stays(spot)
            self._rests_until[spot[1]] = now + CHORE_PAUSE_SECONDS
            self._note(now, "unload_failed", spot[1], spot[0], str(error))
        for work in self._works.get(spot[0], ()):
            if spot in work.pending:
                work.pending.discard(spot)
                if not work.pending:
                    work.phase, work.phase_since = "looking", now
        self._effects.look(spot[0])

    def looked(self, node: str, now: float) -> None:
        """Go on with the work on *node*, of which the view is as fresh as it can be."""
        works = tuple(self._works.get(node, ()))
        for work in works:
            if work.phase == "looking":
                self._load_if_fits(work, now)
            elif work.phase == "confirming":
                self._confirm(work, now)
        if works:
            self._advance(now)
        else:
            self._advance_on(node, now)

    def _load_if_fits(self, work: Work, now: float) -> None:
        """Load, once the memory that the plan counts on is seen to be free."""
        plan = work.plan
        node, spec = self._view.by_name.get(plan.node), self._catalogue.get(plan.model)
        if node is None or not node.healthy:
            self._abandon(work, NoHealthyNode(f"{plan.node} went away"), now)
        elif spec is None:
            self._abandon(work, ModelNotFound(plan.model), now)
        elif node.seen_at < work.phase_since:
            return  # it did not answer this time: it is asked again, until it does or is taken for dead
        elif not (missing := missing_bytes(work, self._works[plan.node], node)):
            waited = {"unload_seconds": work.phase_since - work.since, "memory_seconds": now - work.phase_since}
            work.phase, work.phase_since = "loading", now
            self._note(now, "load_started", plan.model, plan.node, plan.reason, waited)
            self._effects.load(spec, plan)
        elif not plan.victims or now - work.phase_since > SETTLE_SECONDS:
            self._drop(work, missing, now)

    def loaded(self, spot: Spot, error: CortexError | None, now: float) -> None:
        """Take note of how the load at *spot* ended."""
        work = next((w for w in self._works.get(spot[0], ()) if w.spot == spot and w.phase == "loading"), None)
        if work is None:
            return
        seconds = now - work.phase_since
        if error is None:
            self.learned.took(spot, seconds)
            self._note(now, "load_finished", spot[1], spot[0], work.plan.reason, {"seconds": seconds})
            work.phase, work.phase_since = "confirming", now
            self._effects.look(spot[0])
        else:
            self._note(now, "load_failed", spot[1], spot[0], str(error), {"code": error.code, "seconds": seconds})
            self._abandon(work, error, now)

    def _confirm(self, work: Work, now: float) -> None:
        """End *work* once the replica is seen, or will not be."""
        node, replica = self._view.by_name.get(work.plan.node), self._replica(work.spot)
        if node is None or not node.healthy:
            self._abandon(work, NoHealthyNode(f"{work.plan.node} went away"), now)
        elif replica is not None and replica.state == "ready":
            if work.job.cause == "recycle":
                self._renewed.add(work.spot)
            self._close(work)
            self._end(work.job, None, now)
            self._serve(work.plan.model, now)
        elif (replica is not None and replica.state == "failed") or now - work.phase_since > CONFIRM_SECONDS:
            state = replica.state if replica is not None else "gone"
            self._abandon(work, ModelNotReady(f"{work.plan.model} was loaded on {work.plan.node}, and is {state}"), now)

    def _abandon(self, work: Work, error: CortexError, now: float) -> None:
        """Give a plan up; its job finds another if somebody waits and that can help."""
        self._close(work)
        job, node = work.job, work.plan.node
        self._rests_until[job.model] = now + CHORE_PAUSE_SECONDS
        if error.code == "insufficient_memory":
            job.tries[node] = job.tries.get(node, 0) + 1
            self.learned.forget([(node, job.model)])
        else:
            job.failures += error.code not in _ELSEWHERE
        if error.code != "insufficient_memory" or job.tries[node] >= MAX_TRIES:
            job.avoid[node] = error
        if job.failures >= MAX_FAILURES or not self._stranded(job.model):
            self._end(job, error, now)
        self._advance(now)

    def _drop(self, work: Work, reason: str, now: float) -> None:
        """Give a plan up that is not to be carried out after all; its job finds another if somebody waits."""
        self._note(now, "plan_dropped", work.plan.model, work.plan.node, reason)
        self._close(work)

    def _close(self, work: Work) -> None:
        works = self._works[work.plan.node]
        works.remove(work)
        if not works:
            del self._works[work.plan.node]
        work.job.work = None

    # what models need -------------------------------------------------------------------------------------------------

    def estimated(self, spec: ModelSpec, node: str, need: Need, now: float) -> None:
        """Take note of what *spec* takes on *node*, unless the model has been defined otherwise since it was asked."""
        if self._catalogue.get(spec.id) == spec:
            self.learned.needs((node, spec.id), need)
            self._advance(now)

    def inquires(self, model: str) -> bool:
        """Have all nodes asked what *model* takes there, if they were not; return whether an answer is due."""
        spec = self._catalogue.get(model)
        return spec is not None and self._estimating(spec)

    def _estimating(self, spec: ModelSpec) -> bool:
        """Ask every node that could have *spec* what it takes there; return whether an answer is due."""
        due = False
        for node in self._view.by_name.values():
            spot = (node.name, spec.id)
            possible = node.usable and spec.engine_name in node.engines
            if self.learned.knows(spot) or not possible or (spec.allowed_nodes and node.name not in spec.allowed_nodes):
                continue
            due = True
            if self.learned.ask(spot):
                self._effects.estimate(spec, node.name)
        return due

    # the world --------------------------------------------------------------------------------------------------------

    def view_changed(self, view: FleetView, node: str, now: float) -> None:
        """Take in what was learned of *node*."""
        before, after = self._view.by_name.get(node), view.by_name.get(node)
        self._view = view
        if before is None or after is None or before.drained != after.drained:
            self._ready.clear()
        if after is None or (before is not None and before.boot_id not in ("", after.boot_id)):
            self._forget_node(node)
        if after is not None:
            self._take_in(after, now)
        for model in {**(before.models if before is not None else {}), **(after.models if after is not None else {})}:
            self._follow(model, now)
        if before is None or after is None or (before.usable, before.leaving) != (after.usable, after.leaving):
            self._advance(now)
        else:
            self._advance_on(node, now)

    def _take_in(self, node: NodeView, now: float) -> None:
        if node.leaving:
            self._restarting.setdefault(node.name, now)
        elif node.healthy:
            self._restarting.pop(node.name, None)
        for replica in node.replicas:
            others = replica.in_flight + replica.queued - self.doors.flights.get(replica.spot, 0)
            self._foreign.pop(replica.spot, None)
            if others > 0:
                self._foreign[replica.spot] = others
            self.learned.heard(replica)
        for spot, at in list(self._leaving.items()):
            if spot[0] == node.name and at is not None and (node.seen_at >= at or spot[1] not in node.models):
                self._stays(spot)

    def _stays(self, spot: Spot) -> None:
        """Take *spot* for what the view shows of it, no longer for something on its way out."""
        self._leaving.pop(spot, None)
        self._ready.pop(spot[1], None)

    def _follow(self, model: str, now: float) -> None:
        """Serve those who wait for *model* after a change to its replicas, and end the job that this fulfils."""
        job = self._jobs.get(model)
        if job is not None and job.work is None and not self._stranded(model):
            self._end(job, None, now)
        if self.doors.waits(model):
            self._serve(model, now)

    def _forget_node(self, node: str) -> None:
        """Drop what was known of a node that is gone or has begun anew."""
        self.learned.forget_node(node)
        self.doors.forget_node(node)
        self._cycles.pop(node, None)
        self._restarting.pop(node, None)
        for spot in [spot for spot in self._foreign if spot[0] == node]:
            del self._foreign[spot]
        for spot in [spot for spot, at in self._leaving.items() if spot[0] == node and at is not None]:
            self._stays(spot)
        for job in self._jobs.values():
            if node not in job.shuns:
                job.avoid.pop(node, None)
        self._renewed = {spot for spot in self._renewed if spot[0] != node}

    def catalogue_changed(self, catalogue: Mapping[str, ModelSpec], now: float) -> None:
        """Decide by *catalogue* from now on; what is loaded stays as it is."""
        known = self._catalogue
        changed = {m for m in {*catalogue, *known} if catalogue.get(m) != known.get(m)}
        self.learned.forget_models(changed)
        self._rests_until = {model: at for model, at in self._rests_until.items() if model not in changed}
        self._catalogue = catalogue
        for work in [work for works in self._works.values() for work in works]:
            if work.plan.model in changed and work.phase in ("unloading", "looking"):
                self._drop(work, f"{work.plan.model} is defined otherwise now", now)
        self._advance(now)

    def policy_changed(self, policy: Policy) -> None:
        """Decide by *policy* from now on."""
        self._policy = policy

    # time -------------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what only time brings: another look, deadlines, chores. Called about twice a second."""
        for node in sorted({*self._works, *self._followed()}):
            self._effects.look(node)
        self._advance(now)
        self._refuse_late(now)
        self._forget_renewed()
        for chore in self.due(now):
            self._do(chore, now)

    def due(self, now: float) -> list[Chore]:
        """Return the chores of this moment."""
        since = self.doors.waiting_since()
        return chores(self.situation(now), waiting_since=since, cycles=self._cycles, renewed=self._renewed)

    def _followed(self) -> set[str]:
        """Return the nodes on which somebody else's load is waited for."""
        coming = (self._coming(job.model) for job in self._jobs.values() if job.work is None)
        return {replica.node for replica in coming if replica is not None}

    def _refuse_late(self, now: float) -> None:
        """Refuse those who have waited for too long, unless a replica is being loaded for them."""
        for model in self.doors.waiting_since():
            job = self._jobs.get(model)
            if job is not None and (job.work is not None or self._coming(model) is not None):
                continue
            for ticket in self.doors.late(model, now - self._policy.queue_seconds):
                why = job.held if job is not None else ""
                self._effects.refuse(ticket, self.doors.overdue(ticket, self.ready(model), now, why))
            if job is not None and not self.doors.waits(model):
                self._end(job, None, now)

    def _do(self, chore: Chore, now: float) -> None:
        match chore:
            case Unload(spot) if spot not in self._leaving and now >= self._rests_until.get(spot[1], now):
                self._remove(spot, "unloaded", chore.cause, chore.reason, now)
            case Want(model, cause, _):
                self._try_chore(model, cause, now)
            case Renew(spot, reason) if spot not in self._leaving:
                self._renew(spot, reason, now)

    def _try_chore(self, model: str, cause: Cause, now: float) -> None:
        """Begin what a chore wants if it can begin now; nothing waits for it."""
        spec = self._catalogue[model]
        if model in self._jobs or now < self._rests_until.get(model, now) or self._estimating(spec):
            return
        job, situation = Job(model, cause, now, spec.priority), self.situation(now)
        placement = self._place(job, spec, situation)
        if placement.plan is not None:
            self._jobs[model] = job
            self._commit(job, placement.plan, placement, now)
        else:
            self._rests_until[model] = now + CHORE_RETRY_SECONDS

    def _renew(self, spot: Spot, reason: str, now: float) -> None:
        """Unload and load again: a plan whose victim is the replica itself."""
        replica = self._replica(spot)
        if replica is None or spot[1] in self._jobs or spot[1] not in self._catalogue:
            self._renewed.add(spot)
            return
        plan = Plan(
            model=spot[1],
            node=spot[0],
            devices=tuple(sorted(replica.bytes_by_device)),
            bytes_by_device=dict(replica.bytes_by_device),
            victims=(spot,),
            drains=(),
            tier=0.0,
            cost_seconds=self.situation(now).reload_seconds(spot),
            blind=not replica.bytes_by_device,
            reason=reason,
        )
        job = self._jobs[spot[1]] = Job(spot[1], "recycle", now, DEFAULT_PRIORITY)
        self._commit(job, plan, Placement(plan, (), ()), now)

    def _forget_renewed(self) -> None:
        """Begin to count anew on a node all of whose replicas have been renewed."""
        for name in {spot[0] for spot in self._renewed}:
            node = self._view.by_name.get(name)
            if node is None or all(replica.spot in self._renewed for replica in node.replicas):
                self._cycles.pop(name, None)
                self._renewed = {spot for spot in self._renewed if spot[0] != name}

    # reading ----------------------------------------------------------------------------------------------------------

    def situation(self, now: float) -> Situation:
        """Return this moment as decisions see it; it holds until the next call."""
        return Situation(
            now=now,
            view=self._view,
            catalogue=self._catalogue,
            flights=self.doors.flights,
            foreign=self._foreign,
            used=self.doors.used,
            leaving=self._leaving.keys(),
            restarting=self._restarting,
            commitments={
                node: tuple(Commitment(work.plan.model, work.plan.bytes_by_device) for work in works)
                for node, works in self._works.items()
            },
            need=self.learned.need,
            load_seconds=self.learned.load_seconds,
            mean_load_seconds=self.learned.mean_load_seconds,
            policy=self._policy,
        )

    def job(self, model: str) -> Job | None:
        """Return what is being done to get *model* a replica."""
        return self._jobs.get(model)

    def _replica(self, spot: Spot) -> ReplicaView | None:
        node = self._view.by_name.get(spot[0])
        return node.models.get(spot[1]) if node is not None else None

    def comment(self, ticket: Ticket, now: float) -> str:
        """Return what *ticket* waits for, for whoever waits with it."""
        job = self._jobs.get(ticket.model)
        ready = [replica for replica in self.ready(ticket.model) if ticket.can_use(replica)]
        if ready or job is None:
            return self.doors.comment(ticket, ready)
        place, waiting = self.doors.place_of(ticket)
        doing = f"{self._doing(job)}, {now - job.since:.0f}s"
        return doing if waiting < 2 else f"{doing}, place {place} of {waiting}"

    def _doing(self, job: Job) -> str:
        work = job.work
        if work is None:
            return f"{job.model} waits: {job.held}"
        replica = self._replica(work.spot)
        progress = replica.progress if replica is not None and work.phase == "loading" else ""
        steps = {"unloading": "making room", "looking": "reading memory", "confirming": "loaded"}
        return f"loading {job.model} on {work.plan.node}: {progress or steps.get(work.phase, 'starting')}"

    def _note(
        self, now: float, kind: str, model: str, node: str, reason: str, details: Mapping[str, Any] | None = None
    ) -> None:
        event = Event(now, kind, model, node, reason, details or {})
        self.events.append(event)
        self._effects.note(event)
