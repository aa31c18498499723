"""The virtual world: carries out, in virtual time, what the reconciler decides, and holds it to its promises.

Whatever breaks a promise raises SimulationError: a request is answered or refused once, and in the end; no replica
gets more requests than it has slots, none is killed with a request under way, none is evicted that is pinned; no
device holds more than it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from cortex.core.errors import CortexError, LoadFailed, ModelNotReady, UpstreamFailed
from cortex.core.model_spec import ModelSpec
from cortex.fleet.doors import Ticket
from cortex.fleet.plan import Plan
from cortex.fleet.reconciler import Reconciler
from cortex.fleet.route import Choice
from cortex.fleet.situation import UNKNOWN, Need, Policy
from cortex.fleet.view import Spot
from cortex.fleet.work import Event
from cortex.sim.agenda import Agenda
from cortex.sim.description import Fleet, Outage
from cortex.sim.errors import SimulationError
from cortex.sim.node import Node, Replica
from cortex.sim.poller import Poller
from cortex.sim.tally import Tally
from cortex.sim.trace import Arrival
from cortex.sim.visit import Visit, visit_of
from cortex.wire.engine_api import Timings, Usage

# A request may wait for longer than the policy says, while others end and its model loads; but not for a day.
FORGOTTEN_SECONDS = 86_400.0
RESTART_LOOK_SECONDS = 1.0
PROGRESS_STEPS = 2000


class World:
    """Owns the nodes and the requests under way, and implements `Effects`."""

    def __init__(self, fleet: Fleet, policy: Policy, tally: Tally) -> None:
        self.agenda = Agenda()
        self.tally = tally
        self._fleet, self._policy, self._delays = fleet, policy, fleet.delays
        engines = tuple(sorted({spec.engine_name for spec in fleet.catalogue.values()}))
        self.nodes = {machine.name: Node(machine, engines) for machine in fleet.machines}
        self.reconciler = Reconciler(self, fleet.catalogue, policy)
        self._poller = Poller(self.agenda, self.nodes, fleet.limits, fleet.delays, self._on_view)
        self._waiting: dict[Visit, None] = {}
        self._open = 0
        self._arrivals: Iterator[Arrival] = iter(())
        self._more = False

    def run(self, arrivals: Iterable[Arrival], on_progress: Callable[[int], None] = lambda _: None) -> None:
        """Let *arrivals*, which are in order of time, come, and everything happen until the last has its answer.

        *on_progress* hears now and then how many have had theirs. Raises SimulationError.
        """
        self._begin()
        self._arrivals = iter(arrivals)
        self._more = True
        self._expect()
        while self._more or self._open:
            for _ in range(PROGRESS_STEPS):
                self.agenda.step()
                if not self._more and not self._open:
                    break
            on_progress(self.tally.settled)

    def _begin(self) -> None:
        for name in self.nodes:
            self._on_view(name)
        for machine in self._fleet.machines:
            for outage in machine.outages:
                self.agenda.at(outage.begins, self._begin_outage, self.nodes[machine.name], outage)
        self.agenda.after(self._delays.tick_seconds, self._tick)

    def _on_view(self, node: str) -> None:
        self.reconciler.view_changed(self._poller.view, node, self.agenda.now)

    def _tick(self) -> None:
        self.agenda.after(self._delays.tick_seconds, self._tick)
        self.reconciler.tick(self.agenda.now)
        oldest = next(iter(self._waiting), None)
        if oldest is not None and self.agenda.now - oldest.arrived > self._policy.queue_seconds + FORGOTTEN_SECONDS:
            job = self.reconciler.job(oldest.model)
            why = "nothing is done about it" if job is None else job.held or f"its job is at {job.work}"
            raise SimulationError(f"a request for {oldest.model} waits since {oldest.arrived:.3f} s: {why}")

    # requests ---------------------------------------------------------------------------------------------------------

    def _expect(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is None:
            self._more = False
        else:
            self.agenda.at(arrival.at, self._arrive, arrival)

    def _arrive(self, arrival: Arrival) -> None:
        self._expect()
        self._open += 1
        self.tally.arrived(arrival)
        self._ask(visit_of(arrival, self._fleet.aliases.get(arrival.model, arrival.model)))

    def _ask(self, visit: Visit) -> None:
        self._waiting[visit] = None
        try:
            choice = self.reconciler.ask(visit, self.agenda.now)
        except CortexError as error:
            self._settle(visit, error)
            return
        if choice is not None:
            self.serve(visit, choice)
        elif not any(visit.can_use(replica) for replica in self.reconciler.ready(visit.model)):
            visit.cold = True

    def serve(self, ticket: Ticket, choice: Choice) -> None:
        """Begin to serve *ticket*; a node that is not as it was thought to be sends it back."""
        visit, spot = _visit(ticket), choice.replica.spot
        if visit not in self._waiting:
            raise SimulationError(f"a request for {visit.model} that did not wait was given {spot[0]}")
        del self._waiting[visit]
        visit.spot, visit.served_at = spot, self.agenda.now
        node = self.nodes[spot[0]]
        replica = node.replicas.get(spot[1])
        refusal = node.refusal()
        if refusal is not None or replica is None or replica.state != "ready":
            error = refusal or ModelNotReady(f"{visit.model} is not ready on {node.name}")
            self.agenda.after(self._delays.answer_seconds, self._come_back, visit, error)
        else:
            self._start(visit, node, replica)

    def _start(self, visit: Visit, node: Node, replica: Replica) -> None:
        if len(replica.slots.requests) >= replica.slots.count:
            raise SimulationError(f"{replica.model} on {node.name} got more requests than it has slots")
        behaviour, arrival = replica.behaviour, visit.arrival
        visit.cached_tokens = replica.cached_tokens(visit)
        prefill = (arrival.prompt_tokens - visit.cached_tokens) / (behaviour.prefill_tokens_per_second * replica.speed)
        each = 1.0 / (behaviour.tokens_per_second * replica.speed)
        first = min(1, arrival.completion_tokens)
        rest = (arrival.completion_tokens - first) * each
        replica.slots.start(visit, prefill + first * each, rest, self.agenda.now)
        self._changed(node)
        self._await(node, replica)

    def _await(self, node: Node, replica: Replica) -> None:
        at = replica.slots.next_at()
        if at != replica.wakes_at:
            replica.wakes_at = at
            if at != float("inf"):
                self.agenda.at(at, self._reach, node, replica, at)

    def _reach(self, node: Node, replica: Replica, at: float) -> None:
        """Go past a milestone, unless what was arranged is no longer so."""
        if replica.wakes_at != at or node.replicas.get(replica.model) is not replica:
            return
        replica.wakes_at = float("inf")
        visit, is_done = replica.slots.reach(self.agenda.now)
        if is_done:
            self._end(visit, node, replica)
        else:
            visit.first_token_at = self.agenda.now
        self._await(node, replica)

    def _end(self, visit: Visit, node: Node, replica: Replica) -> None:
        now, arrival = self.agenda.now, visit.arrival
        assert visit.served_at is not None, "it was served"
        assert visit.first_token_at is not None, "the first token comes before the last"
        replica.last_ended = now
        replica.remember(visit)
        self._changed(node)
        if replica.state == "draining" and not replica.slots.requests:
            self.agenda.after(node.machine.unload_seconds, self._end_unload, node, replica)
        self._settle(visit, None)
        timings = Timings(
            prefill_ms=1000.0 * (visit.first_token_at - visit.served_at),
            decode_ms=1000.0 * (now - visit.first_token_at),
            cached_tokens=visit.cached_tokens,
        )
        usage = Usage(arrival.prompt_tokens, arrival.completion_tokens, visit.cached_tokens)
        self.reconciler.finished((node.name, replica.model), now, usage, timings)

    def _come_back(self, visit: Visit, error: CortexError) -> None:
        """Ask anew for a request that a node sent back or lost; one whose client has seen some of it ends there."""
        spot = visit.spot
        assert spot is not None, "it was served"
        self._poller.look(spot[0])
        self.reconciler.finished(spot, self.agenda.now)
        if visit.has_told:
            self._settle(visit, error)
            return
        visit.spot = visit.served_at = visit.first_token_at = None
        visit.avoid.add(spot[0])
        visit.retries += 1
        self._ask(visit)

    def refuse(self, ticket: Ticket, error: CortexError) -> None:
        """Send *ticket* away."""
        visit = _visit(ticket)
        if visit not in self._waiting:
            raise SimulationError(f"a request for {visit.model} that did not wait was refused: {error}")
        self._settle(visit, error)

    def _settle(self, visit: Visit, error: CortexError | None) -> None:
        if visit.outcome is not None:
            raise SimulationError(f"a request for {visit.model} was {visit.outcome} already")
        self._waiting.pop(visit, None)
        self._open -= 1
        visit.outcome = "answered" if error is None else "broken" if visit.has_told else "refused"
        self.tally.settle(visit, error, self.agenda.now)

    # replicas ---------------------------------------------------------------------------------------------------------

    def load(self, spec: ModelSpec, plan: Plan) -> None:
        """Have *spec* loaded as *plan* says."""
        self.agenda.after(self._delays.answer_seconds, self._begin_load, spec, plan)

    def _begin_load(self, spec: ModelSpec, plan: Plan) -> None:
        node, spot = self.nodes[plan.node], (plan.node, spec.id)
        there = node.replicas.get(spec.id)
        if there is not None and there.state == "ready":
            self._tell_loaded(spot, None)
            return
        try:
            replica = node.begin_load(spec.id, self._fleet.behaviours[spec.id], plan.devices, self.agenda.now)
        except CortexError as error:
            self._tell_loaded(spot, error)
            return
        self._changed(node)
        self.agenda.after(replica.load_seconds, self._end_load, node, replica)

    def _end_load(self, node: Node, replica: Replica) -> None:
        if node.replicas.get(replica.model) is not replica:
            return
        failure = replica.behaviour.fail_load
        if failure:
            node.remove(replica)
        else:
            replica.state, replica.last_ended, replica.ready_since = "ready", self.agenda.now, self.agenda.now
        self._changed(node)
        self._tell_loaded((node.name, replica.model), LoadFailed(failure) if failure else None)

    def unload(self, spot: Spot) -> None:
        """Have the replica at *spot* drained and unloaded."""
        self.agenda.after(self._delays.answer_seconds, self._begin_unload, spot)

    def _begin_unload(self, spot: Spot) -> None:
        node = self.nodes[spot[0]]
        replica = node.replicas.get(spot[1])
        if not node.is_up:
            self._tell_unloaded(spot, UpstreamFailed(f"{node.name} refused the connection"))
        elif replica is None:
            self._tell_unloaded(spot, None)
        elif replica.state == "ready":
            replica.state = "draining"
            self._changed(node)
            if not replica.slots.requests:
                self.agenda.after(node.machine.unload_seconds, self._end_unload, node, replica)
        else:
            raise SimulationError(f"{spot[1]} on {spot[0]} was to be unloaded while it was {replica.state}")

    def _end_unload(self, node: Node, replica: Replica) -> None:
        if node.replicas.get(replica.model) is not replica:
            return
        node.remove(replica)
        self._changed(node)
        self._tell_unloaded((node.name, replica.model), None)

    def _tell_loaded(self, spot: Spot, error: CortexError | None) -> None:
        self.agenda.after(self._delays.answer_seconds, lambda: self.reconciler.loaded(spot, error, self.agenda.now))

    def _tell_unloaded(self, spot: Spot, error: CortexError | None) -> None:
        self.agenda.after(self._delays.answer_seconds, lambda: self.reconciler.unloaded(spot, error, self.agenda.now))

    def _changed(self, node: Node) -> None:
        self._poller.disturb(node.name)
        self.tally.stands(node.name, node.busy, sum(node.held_bytes()), self.agenda.now)

    # nodes ------------------------------------------------------------------------------------------------------------

    def look(self, node: str) -> None:
        """Ask *node* how it is."""
        self._poller.look(node, lambda name: self.reconciler.looked(name, self.agenda.now))

    def estimate(self, spec: ModelSpec, node: str) -> None:
        """Ask *node* what *spec* takes there."""
        bytes_ = self._fleet.behaviours[spec.id].estimate_bytes
        need = UNKNOWN if bytes_ is None else Need((bytes_,))
        self.agenda.after(
            self._delays.estimate_seconds,
            lambda: self.reconciler.estimated(spec, node, need, self.agenda.now),
        )

    def note(self, event: Event) -> None:
        """Take note of *event*. Raises SimulationError if something that is pinned has to go."""
        if event.kind == "evicted":
            spec = self._fleet.catalogue.get(event.model)
            if spec is not None and spec.is_pinned_on(event.node):
                raise SimulationError(f"{event.model} is pinned on {event.node} and was evicted: {event.reason}")
        self.tally.note(event)

    def _begin_outage(self, node: Node, outage: Outage) -> None:
        match outage.how:
            case "crash":
                self._fall(node, outage)
            case "restart":
                node.is_leaving = True
                self._poller.disturb(node.name)
                deadline = min(outage.begins + self._fleet.limits.drain_seconds, outage.ends)
                self.agenda.after(self._fleet.limits.poll_seconds, self._fall_when_idle, node, outage, deadline)
            case "drain":
                self._poller.set_drained(node.name, True)
                if outage.up_at is not None:
                    self.agenda.at(outage.ends, self._poller.set_drained, node.name, False)

    def _fall_when_idle(self, node: Node, outage: Outage, deadline: float) -> None:
        if node.busy and self.agenda.now < deadline:
            self.agenda.after(RESTART_LOOK_SECONDS, self._fall_when_idle, node, outage, deadline)
        else:
            self._fall(node, outage)

    def _fall(self, node: Node, outage: Outage) -> None:
        """Break every connection to *node*."""
        error = UpstreamFailed(f"{node.name} broke the connection")
        for replica in node.fall():
            spot = (node.name, replica.model)
            for visit in replica.slots.requests:
                self.agenda.after(self._delays.answer_seconds, self._come_back, visit, error)
            if replica.state == "loading":
                self._tell_loaded(spot, error)
            elif replica.state == "draining":
                self._tell_unloaded(spot, error)
        self._changed(node)
        if outage.up_at is not None:
            self.agenda.at(outage.ends, self._rise, node)

    def _rise(self, node: Node) -> None:
        node.rise()
        self._changed(node)


def _visit(ticket: Ticket) -> Visit:
    assert isinstance(ticket, Visit), "the world asks with visits alone"
    return ticket
