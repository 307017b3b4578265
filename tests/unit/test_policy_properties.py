"""Searches for what must never happen: a promoted laggard, a false `none`, a second primary.

A world is made first: who holds how much WAL, and how many acknowledgements each commit had. The policy sees only what
it could reach of it. Each property was seen to fail on a policy with one rule taken out.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.facts import EpochRecord, MemberFacts
from tests.unit.estates import DEAD, E1, E2, E3, E4, W1, gone, leader, record, service, standby
from workflows.policy.assess import assess
from workflows.policy.go import may_go

STANDBYS = (E2, E3, E4, W1)
FORK = 1000
"""Positions below are on timeline 1, those above on timeline 2."""


@dataclass(frozen=True)
class World:
    """`flushed`: where each standby truly stands. Only `reached` ones are seen, only `cut` ones are disconnected."""

    record: EpochRecord
    flushed: dict[str, int]
    timelines: dict[str, int]
    reached: set[str]
    cut: set[str]

    def facts(self) -> list[MemberFacts]:
        return [
            standby(name, self.flushed[name], timeline=self.timelines[name]) if name in self.reached else gone(name)
            for name in STANDBYS
        ]

    def acknowledged(self, w: int, voters: list[str], flushed: dict[str, int]) -> int:
        """The furthest position that W of the voters have flushed: no later commit can have been acknowledged."""
        ranked = sorted((flushed[name] for name in voters), reverse=True)
        return ranked[min(w, len(ranked)) - 1] if ranked and w else 0


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """pg-east-1 led under W of N voters, and all stand on its timeline."""
    voters = draw(st.lists(st.sampled_from(STANDBYS), min_size=1, unique=True))
    flushed = {name: draw(st.integers(1, 9)) for name in STANDBYS}
    reached = draw(st.sets(st.sampled_from(STANDBYS)))
    cut = draw(st.sets(st.sampled_from(sorted(reached)))) if reached else set()
    return World(
        record=record(draw(st.integers(1, len(voters))), voters),
        flushed=flushed,
        timelines=dict.fromkeys(STANDBYS, 1),
        reached=reached,
        cut=cut,
    )


candidates = st.lists(st.sampled_from(STANDBYS), min_size=1, unique=True)
requests = st.none() | st.sampled_from(STANDBYS)


def judged(world: World, candidates: list[str], requested: str | None, *, final: bool):
    of = service(failover={"candidates": candidates})
    return of, assess(
        of,
        suspect=E1,
        death=DEAD,
        record=world.record,
        facts=world.facts(),
        requested=requested,
        disconnected=world.cut if final else None,
    )


@given(worlds(), candidates, requests, st.booleans())
@settings(max_examples=400)
def test_no_laggard_is_promoted(world, candidates, requested, final):
    """Invariant 5: the chosen one is behind no voter that is reached."""
    _, found = judged(world, candidates, requested, final=final)
    chosen = found.choice.candidate
    if chosen is not None:
        assert chosen in candidates
        assert requested in (None, chosen)
        assert all(
            world.flushed[chosen] >= world.flushed[name] for name in world.record.voters if name in world.reached
        )


@given(worlds(), candidates, requests)
@settings(max_examples=400)
def test_none_is_never_said_while_an_acknowledged_commit_may_be_missing(world, candidates, requested):
    """Invariants 3 and 4, at the moment of looking."""
    _, found = judged(world, candidates, requested, final=False)
    if found.verdict.kind == "none":
        held = world.flushed[found.choice.candidate]
        assert held >= world.acknowledged(world.record.w, world.record.voters, world.flushed)


@given(worlds(), candidates, requests)
@settings(max_examples=400)
def test_the_old_primary_gathers_no_acknowledgement_after_a_final_none(world, candidates, requested):
    """Invariant 1: whoever was not disconnected may follow the old primary for ever, and it isn't enough."""
    _, found = judged(world, candidates, requested, final=True)
    if found.verdict.kind == "none":
        for_ever = {name: world.flushed[name] if name in world.cut else 10**9 for name in STANDBYS}
        held = world.flushed[found.choice.candidate]
        assert held >= world.acknowledged(world.record.w, world.record.voters, for_ever)
        assert len(set(world.record.voters) - world.cut) < world.record.w


@given(worlds(), candidates, requests, st.booleans())
@settings(max_examples=400)
def test_the_policy_alone_never_goes_where_a_commit_may_be_lost(world, candidates, requested, final):
    of, found = judged(world, candidates, requested, final=final)
    go = may_go(of, found, approval="policy", automatic=True, suspect_alive=False)
    lost = found.choice.candidate is None or world.flushed[found.choice.candidate] < world.acknowledged(
        world.record.w, world.record.voters, world.flushed
    )
    if lost:
        assert go.action == "refuse"
    if go.action == "go":
        assert found.survivors


@st.composite
def cut_off_runs(draw: st.DrawFn) -> World:
    """An earlier run recorded a candidate, perhaps promoted it, and died: both sets bind.

    As the protocol has it, the candidate held all that was acknowledged before, and so does whoever follows it.
    """
    voters = draw(st.lists(st.sampled_from(STANDBYS), min_size=1, unique=True))
    w = draw(st.integers(1, len(voters)))
    recorded = draw(st.sampled_from(STANDBYS))
    followers = draw(st.lists(st.sampled_from([name for name in STANDBYS if name != recorded]), unique=True))
    flushed = {name: draw(st.integers(1, 9)) for name in STANDBYS}
    timelines = dict.fromkeys(STANDBYS, 1)
    flushed[recorded] = max(flushed.values())
    if draw(st.booleans()):
        flushed[recorded], timelines[recorded] = FORK + draw(st.integers(0, 9)), 2
        for name in followers:
            if draw(st.booleans()):
                flushed[name], timelines[name] = FORK + draw(st.integers(0, 9)), 2
    reached = draw(st.sets(st.sampled_from(STANDBYS)))
    cut = draw(st.sets(st.sampled_from(sorted(reached)))) if reached else set()
    on = record(w, voters, candidate=recorded, candidate_voters=followers)
    return World(record=on, flushed=flushed, timelines=timelines, reached=reached, cut=cut)


@given(cut_off_runs(), candidates, st.booleans(), st.booleans())
@settings(max_examples=600)
def test_none_holds_for_both_sets_of_a_run_that_was_cut_off(world, candidates, final, leads):
    recorded, followers = world.record.candidate, world.record.candidate_voters
    promoted = world.timelines[recorded] == 2
    facts = world.facts()
    if promoted and leads and recorded in world.reached:
        at = STANDBYS.index(recorded)
        facts[at] = leader(recorded, world.flushed[recorded], timeline=2)
    of = service(failover={"candidates": candidates})
    found = assess(
        of,
        suspect=E1,
        death=DEAD,
        record=world.record,
        facts=facts,
        disconnected=world.cut if final else None,
    )
    chosen = found.choice.candidate
    if promoted and leads and recorded in world.reached:
        assert chosen in (None, recorded), "a second primary beside the recorded one"
    if found.verdict.kind != "none" or chosen == recorded:
        return
    old = {name: min(world.flushed[name], FORK) for name in STANDBYS}
    assert old[chosen] >= world.acknowledged(world.record.w, world.record.voters, old)
    if promoted:
        w = min(world.record.w, len(followers))
        assert w, "the recorded candidate may have acknowledged alone"
        new = {name: world.flushed[name] if world.timelines[name] == 2 else 0 for name in STANDBYS}
        assert new[chosen] >= world.acknowledged(w, followers, new)
