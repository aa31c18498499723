"""The run loop's mind: gives requests replicas, and has plans carried out. Owns the jobs.

It does no I/O and reads no clock. Facts come in as calls with the time they are told at; what is to be done goes out
through `Effects`, whose results come back as calls. The gateway and the simulator drive the same object.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from cortex.core.errors import Conflict, CortexError, NoHealthyNode, ServiceError
from cortex.core.model_spec import DEFAULT_PRIORITY, ModelSpec
from cortex.fleet.carrier import Carrier
from cortex.fleet.doors import Doors, Ticket
from cortex.fleet.effects import Effects
from cortex.fleet.learned import Learned
from cortex.fleet.place import Placement, consider, no_place, place
from cortex.fleet.plan import Plan
from cortex.fleet.presence import Presence
from cortex.fleet.refusals import awaited, uncatalogued
from cortex.fleet.route import Choice
from cortex.fleet.situation import Need, Policy, Situation
from cortex.fleet.tend import Chore, Renew, Unload, Want, dispensable
from cortex.fleet.upkeep import CHORE_PAUSE_SECONDS, CHORE_RETRY_SECONDS, Upkeep, renewal
from cortex.fleet.view import FleetView, NodeView, ReplicaView, Spot
from cortex.fleet.work import Cause, Event, Job, Work, doing
from cortex.wire.engine_api import Timings, Usage

# A node may turn out to have no memory for a plan after all; so often is it planned for again.
MAX_TRIES = 3
# So many nodes may fail to load a model before it is the model that is taken to be broken.
MAX_FAILURES = 2
# By these a node says that another may do better; they say nothing against the model.
_ELSEWHERE = frozenset(
    {"no_feasible_node", "no_healthy_node", "shutting_down", "upstream_connection_error", "upstream_timeout"}
)


class Reconciler:
    """Owns the jobs. Its parts own the rest: the doors, what was learned, what is there, upkeep, and work."""

    def __init__(self, effects: Effects, catalogue: Mapping[str, ModelSpec], policy: Policy) -> None:
        self._effects, self._catalogue, self._policy = effects, catalogue, policy
        self.doors, self.learned, self.presence, self.upkeep = Doors(), Learned(), Presence(), Upkeep()
        self._carrier = Carrier(effects, self.presence, self.learned)
        self._jobs: dict[str, Job] = {}

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
        for replica in dispensable(model, self.situation(now)):
            self._carrier.remove(replica.spot, "unloaded", "client", reason, now)

    # orders -----------------------------------------------------------------------------------------------------------

    def carry_out(self, plan: Plan, now: float) -> None:
        """Load by an operator's *plan*, whoever waits for that or not. Raises Conflict if a load is under way."""
        job = self._jobs.get(plan.model)
        if job is not None and job.work is not None:
            raise Conflict(f"{plan.model} is on its way already: {doing(job, self.presence.replica)}")
        spec = self._catalogue.get(plan.model)
        if job is None:
            rank = spec.priority if spec is not None else DEFAULT_PRIORITY
            job = self._jobs[plan.model] = Job(plan.model, "order", now, rank)
        self._carrier.begin(job, plan, now)

    def unload(self, spot: Spot, now: float) -> None:
        """Drain the replica at *spot* and unload it: an operator wants it gone."""
        self._carrier.remove(spot, "unloaded", "order", "an operator unloads it", now)

    def ready(self, model: str) -> tuple[ReplicaView, ...]:
        """Return the replicas that may be given work."""
        return self.presence.ready(model)

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
        held, view = [job for job in self._jobs.values() if job.work is None], self.presence.view.by_name.get(node)
        if view is not None:
            for job in sorted(held, key=lambda job: (-job.rank, job.since, job.model)):
                self._try_on(view, job, now)

    def _try_on(self, node: NodeView, job: Job, now: float) -> None:
        spec = self._catalogue.get(job.model)
        if spec is None or node.name in job.avoid or not self.learned.knows((node.name, job.model)):
            self._try(job, now)
            return
        if self.presence.coming(job.model) is not None or not self._stranded(job.model):
            return
        plan = consider(spec, node, self.situation(now), may_drain=self._may_drain(job, now)).plan
        if plan is not None:
            self._carrier.begin(job, plan, now)

    def _try(self, job: Job, now: float) -> None:
        """Commit to a plan for *job*, note what holds it, or end it: nobody waits any more, or it is impossible."""
        if not self._stranded(job.model):
            self._end(job, None, now)
            return
        job.cause = "request"
        spec, situation = self._catalogue.get(job.model), self.situation(now)
        coming = self.presence.coming(job.model)
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
            self._carrier.begin(job, placement.plan, situation.now)
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
            self._carrier.note(now, "refused", job.model, "", str(error), {"code": error.code})
        self._serve(job.model, now)

    # work -------------------------------------------------------------------------------------------------------------

    def unloaded(self, spot: Spot, error: CortexError | None, now: float) -> None:
        """Take note that *spot* has been unloaded, or that its node could not be brought to it."""
        if error is None:
            self.upkeep.wear(spot[0])
        else:
            self.upkeep.rest(spot[1], now + CHORE_PAUSE_SECONDS)
        self._carrier.unloaded(spot, error, now)

    def looked(self, node: str, now: float) -> None:
        """Go on with the work on *node*, of which the view is as fresh as it can be."""
        works = self._carrier.on(node)
        for work in works:
            outcome = self._carrier.step(work, self._catalogue.get(work.plan.model), now)
            if outcome == "done":
                self._fulfil(work, now)
            elif outcome is not None:
                self._abandon(work, outcome, now)
        if works:
            self._advance(now)
        else:
            self._advance_on(node, now)

    def loaded(self, spot: Spot, error: CortexError | None, now: float) -> None:
        """Take note of how the load at *spot* ended."""
        work = self._carrier.loaded(spot, error, now)
        if work is not None and error is not None:
            self._abandon(work, error, now)

    def _fulfil(self, work: Work, now: float) -> None:
        """End *work*, whose replica is there."""
        if work.job.cause == "recycle":
            self.upkeep.renew(work.spot)
        self._carrier.close(work)
        self._end(work.job, None, now)
        self._serve(work.plan.model, now)

    def _abandon(self, work: Work, error: CortexError, now: float) -> None:
        """Give a plan up; its job finds another if somebody waits and that can help."""
        self._carrier.close(work)
        job, node = work.job, work.plan.node
        self.upkeep.rest(job.model, now + CHORE_PAUSE_SECONDS)
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
        for node in self.presence.view.by_name.values():
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
        before, after = self.presence.view.by_name.get(node), view.by_name.get(node)
        self.presence.show(view, node)
        if after is None or (before is not None and before.boot_id not in ("", after.boot_id)):
            self._forget_node(node)
        if after is not None:
            self.presence.take_in(after, now, self.doors.flights)
            for replica in after.replicas:
                self.learned.heard(replica)
        for model in {**(before.models if before is not None else {}), **(after.models if after is not None else {})}:
            self._follow(model, now)
        if before is None or after is None or (before.usable, before.leaving) != (after.usable, after.leaving):
            self._advance(now)
        else:
            self._advance_on(node, now)

    def _follow(self, model: str, now: float) -> None:
        """Serve those who wait for *model* after a change to its replicas, and end the job that this fulfils."""
        job = self._jobs.get(model)
        if job is not None and job.work is None and not self._stranded(model):
            self._end(job, None, now)
        if self.doors.waits(model):
            self._serve(model, now)

    def _forget_node(self, node: str) -> None:
        """Drop what was known of a node that is gone or has begun anew."""
        for part in (self.learned, self.doors, self.presence, self.upkeep):
            part.forget_node(node)
        for job in self._jobs.values():
            if node not in job.shuns:
                job.avoid.pop(node, None)

    def catalogue_changed(self, catalogue: Mapping[str, ModelSpec], now: float) -> None:
        """Decide by *catalogue* from now on; what is loaded stays as it is."""
        known = self._catalogue
        changed = {m for m in {*catalogue, *known} if catalogue.get(m) != known.get(m)}
        self.learned.forget_models(changed)
        self.upkeep.forget_models(changed)
        self._catalogue = catalogue
        self._carrier.drop_changed(changed, now)
        self._advance(now)

    def policy_changed(self, policy: Policy) -> None:
        """Decide by *policy* from now on."""
        self._policy = policy

    # time -------------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what only time brings: another look, deadlines, chores. Called about twice a second."""
        for node in sorted({*self._carrier.nodes, *self._followed()}):
            self._effects.look(node)
        self._advance(now)
        self._refuse_late(now)
        self.upkeep.count_anew(self.presence.view)
        for chore in self.due(now):
            self._do(chore, now)

    def due(self, now: float) -> list[Chore]:
        """Return the chores of this moment."""
        return self.upkeep.due(self.situation(now), self.doors.waiting_since())

    def _followed(self) -> set[str]:
        """Return the nodes on which somebody else's load is waited for."""
        coming = (self.presence.coming(job.model) for job in self._jobs.values() if job.work is None)
        return {replica.node for replica in coming if replica is not None}

    def _refuse_late(self, now: float) -> None:
        """Refuse those who have waited for too long, unless a replica is being loaded for them."""
        for model in self.doors.waiting_since():
            job = self._jobs.get(model)
            if job is not None and (job.work is not None or self.presence.coming(model) is not None):
                continue
            for ticket in self.doors.late(model, now - self._policy.queue_seconds):
                why = job.held if job is not None else ""
                self._effects.refuse(ticket, self.doors.overdue(ticket, self.ready(model), now, why))
            if job is not None and not self.doors.waits(model):
                self._end(job, None, now)

    def _do(self, chore: Chore, now: float) -> None:
        match chore:
            case Unload(spot) if spot not in self.presence.leaving and not self.upkeep.rests(spot[1], now):
                self._carrier.remove(spot, "unloaded", chore.cause, chore.reason, now)
            case Want(model, cause, _):
                self._try_chore(model, cause, now)
            case Renew(spot, reason) if spot not in self.presence.leaving:
                self._renew(spot, reason, now)

    def _try_chore(self, model: str, cause: Cause, now: float) -> None:
        """Begin what a chore wants if it can begin now; nothing waits for it."""
        spec = self._catalogue[model]
        if model in self._jobs or self.upkeep.rests(model, now) or self._estimating(spec):
            return
        job, situation = Job(model, cause, now, spec.priority), self.situation(now)
        placement = self._place(job, spec, situation)
        if placement.plan is not None:
            self._jobs[model] = job
            self._carrier.begin(job, placement.plan, now)
        else:
            self.upkeep.rest(model, now + CHORE_RETRY_SECONDS)

    def _renew(self, spot: Spot, reason: str, now: float) -> None:
        """Unload and load again: a plan whose victim is the replica itself."""
        replica, model = self.presence.replica(spot), spot[1]
        if replica is None or model in self._jobs or model not in self._catalogue:
            self.upkeep.renew(spot)
            return
        job = self._jobs[model] = Job(model, "recycle", now, DEFAULT_PRIORITY)
        self._carrier.begin(job, renewal(replica, self.situation(now), reason), now)

    # reading ----------------------------------------------------------------------------------------------------------

    def situation(self, now: float) -> Situation:
        """Return this moment as decisions see it; it holds until the next call."""
        return Situation(
            now=now,
            view=self.presence.view,
            catalogue=self._catalogue,
            flights=self.doors.flights,
            foreign=self.presence.foreign,
            used=self.doors.used,
            leaving=self.presence.leaving.keys(),
            restarting=self.presence.restarting,
            commitments=self._carrier.commitments(),
            need=self.learned.need,
            load_seconds=self.learned.load_seconds,
            mean_load_seconds=self.learned.mean_load_seconds,
            policy=self._policy,
        )

    @property
    def events(self) -> deque[Event]:
        """The latest of what was decided and came of it, oldest first."""
        return self._carrier.events

    def job(self, model: str) -> Job | None:
        """Return what is being done to get *model* a replica."""
        return self._jobs.get(model)

    def comment(self, ticket: Ticket, now: float) -> str:
        """Return what *ticket* waits for, for whoever waits with it."""
        job = self._jobs.get(ticket.model)
        ready = [replica for replica in self.ready(ticket.model) if ticket.can_use(replica)]
        if ready or job is None:
            return self.doors.comment(ticket, ready)
        place, waiting = self.doors.place_of(ticket)
        told = f"{doing(job, self.presence.replica)}, {now - job.since:.0f}s"
        return told if waiting < 2 else f"{told}, place {place} of {waiting}"
