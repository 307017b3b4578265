"""Searches for an order of events in which the record promises more than is true.

A primary writes, standbys come, go and lag, and the set is changed step by step, with a crash between any two writes.
After every event: each group of voters that satisfies the record's R + W > N holds every acknowledged commit, and once
it is disconnected the primary can gather no acknowledgement more. Each property was seen to fail with a rule taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.facts import EpochRecord, MemberFacts
from tests.unit.estates import E1, E2, E3, E4, W1, after, leader, record, service
from workflows.policy.quorum import SyncSet, binding_sets
from workflows.policy.voters import Change, next_set, parse_names, render_names

STANDBYS = (E2, E3, E4, W1)
LOST_AFTER = 5


class World:
    """One primary and its standbys; `acknowledged` is the furthest position that a client was told is safe."""

    def __init__(self, policy: str, acknowledgements: int, voters: list[str], first: int) -> None:
        self.service = service(
            synchronous={
                "policy": policy,
                "acknowledgements": acknowledgements,
                "voters": [E1, *voters],
                "lost_after_s": LOST_AFTER,
            }
        )
        self.voters = voters
        self.now = 0.0
        self.end = 0
        self.acknowledged = 0
        self.flushed = dict.fromkeys(STANDBYS, 0)
        self.streaming = set(voters)
        self.missing: dict[str, datetime] = {}
        start = voters[:first]
        self.names = render_names(min(acknowledgements, len(start)), start)
        self.record: EpochRecord = record(min(acknowledgements, len(start)), start)

    @property
    def force(self) -> SyncSet:
        parsed = parse_names(self.names)
        assert parsed is not None
        return SyncSet.of(*parsed)

    def write(self, ships: list[str]) -> bool:
        """A commit that reaches only `ships` of those that stream; True when it is acknowledged."""
        self.end += 1
        for name in ships:
            if name in self.streaming:
                self.flushed[name] = self.end
        return self.acknowledge()

    def acknowledge(self) -> bool:
        """What W of the set in force have flushed is acknowledged; with no set, all that was written."""
        force = self.force
        ranked = sorted((self.flushed[name] for name in force.voters), reverse=True)
        safe = ranked[force.w - 1] if force.w else self.end
        self.acknowledged = max(self.acknowledged, safe)
        return safe == self.end

    def lose(self, name: str) -> None:
        self.streaming.discard(name)
        self.missing.setdefault(name, after(self.now))

    def back(self, name: str) -> None:
        self.streaming.add(name)
        self.missing.pop(name, None)

    def facts(self) -> MemberFacts:
        return leader(E1, self.end, names=self.names, streaming=sorted(self.streaming))

    def change(self) -> Change | None:
        return next_set(self.service, self.record, self.facts(), missing_since=dict(self.missing), now=after(self.now))

    def carry_out(self, change: Change, acts: int, confirmed_by: list[str]) -> Iterator[None]:
        """Carry out a step, or its first `acts` writes only; yields after each."""
        order = ["record", "names"] if change.record_first else ["names", "confirm", "record"]
        for act in order[:acts]:
            if act == "record":
                self.record = self.record.model_copy(update={"w": change.w, "voters": change.voters})
            elif act == "names" and change.apply:
                self.names = render_names(change.w, change.voters)
            elif act == "confirm" and change.confirm and not self.write(confirmed_by):
                yield
                return
            yield

    def check(self) -> None:
        held = binding_sets(self.record)[0]
        for size in range(len(STANDBYS) + 1):
            for group in combinations(STANDBYS, size):
                if held.holds(group):
                    assert max(self.flushed[name] for name in group) >= self.acknowledged, "an acknowledged commit"
                    assert self.force.holds(group), "the old primary may go on acknowledging"


names = st.sampled_from(STANDBYS)
events = st.one_of(
    st.tuples(st.just("write"), st.lists(names, unique=True)),
    st.tuples(st.just("lose"), names),
    st.tuples(st.just("back"), names),
    st.tuples(st.just("pass"), st.sampled_from([1, LOST_AFTER])),
    st.tuples(st.just("step"), st.sampled_from([3, 3, 1, 2]), st.lists(names, unique=True)),
    st.tuples(st.just("step"), st.just(3), st.just(list(STANDBYS))),
)
worlds = st.builds(
    World,
    st.sampled_from(["required", "available"]),
    st.integers(1, 3),
    st.permutations(STANDBYS).flatmap(lambda order: st.integers(3, 4).map(lambda n: list(order[:n]))),
    st.integers(0, 4),
)


def happen(world: World, event: tuple) -> Iterator[None]:
    if event[0] == "write":
        world.write(event[1])
    elif event[0] == "lose":
        world.lose(event[1])
    elif event[0] == "back" and event[1] in world.voters:
        world.back(event[1])
    elif event[0] == "pass":
        world.now += event[1]
    elif event[0] == "step" and (change := world.change()) is not None:
        yield from world.carry_out(change, event[1], event[2])
    yield


@given(worlds, st.lists(events, max_size=30))
@settings(max_examples=500)
def test_the_record_never_promises_more_than_is_true(world, history):
    world.check()
    for event in history:
        for _ in happen(world, event):
            world.check()


def settle(world: World) -> int:
    """Steps until there is nothing to do; every commit reaches all that stream."""
    for steps in range(12):
        change = world.change()
        if change is None:
            return steps
        for _ in world.carry_out(change, 3, list(STANDBYS)):
            world.check()
    raise AssertionError(f"no end: {world.names} | {world.record} | {world.change()}")


@given(worlds, st.lists(events, max_size=20))
@settings(max_examples=200)
def test_it_comes_to_rest_and_is_whole_once_all_are_back(world, history):
    """Invariant 7: the synchronous set is what the policy says."""
    for event in history:
        for _ in happen(world, event):
            pass
    settle(world)
    for name in world.voters:
        world.back(name)
    settle(world)
    whole = SyncSet.of(world.service.synchronous.acknowledgements, world.voters)
    assert world.force.same(whole)
    assert binding_sets(world.record)[0].same(whole)


@given(worlds, st.lists(events, max_size=20))
@settings(max_examples=200)
def test_required_never_acknowledges_alone_once_it_has_a_set(world, history):
    world.service = world.service.model_copy(
        update={"synchronous": world.service.synchronous.model_copy(update={"policy": "required"})}
    )
    settle(world)
    need = world.service.synchronous.acknowledgements
    for event in history:
        for _ in happen(world, event):
            assert world.force.w == need


@given(worlds, st.integers(0, 3), st.lists(names, unique=True), st.lists(st.lists(names, unique=True), max_size=4))
@settings(max_examples=200)
def test_a_setting_that_a_person_changed_is_bound_from_the_first_step_on(world, w, by_hand, writes):
    """Until the watch has looked nobody can know; from its first write on the record is true again."""
    settle(world)
    world.names = render_names(w, by_hand)
    for ships in writes:
        world.write(ships)
    settle(world)
    world.check()
