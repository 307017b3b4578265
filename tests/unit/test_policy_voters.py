"""The synchronous set while the primary lives: each step and the order of its two writes."""

from __future__ import annotations

import pytest

from tests.unit.estates import E1, E2, E3, E4, T0, after, gone, leader, record, service, standby
from workflows.policy.voters import next_set, render_names

AVAILABLE = service(synchronous={"policy": "available"})
THREE = {"voters": [E1, E2, E3, E4], "acknowledgements": 2}


def step(force, streaming, *, of=None, on=None, missing=None, at=0.0, **changed):
    """`force`: W and voters in force; `missing`: seconds before `at` since which a voter is missing."""
    names = force if isinstance(force, str) else render_names(force[0], force[1:])
    since = {name: after(at - seconds) for name, seconds in (missing or {}).items()}
    facts = leader(E1, names=names, streaming=streaming, **changed)
    return next_set(of or service(), on or record(), facts, missing_since=since, now=after(at))


def test_nothing_to_do():
    assert step((1, E2, E3), [E2, E3]) is None
    assert step((1, E3, E2), [E2, E3]) is None
    assert step('FIRST 1 ("pg-east-2","pg-east-3")', [E2, E3]) is None


def test_a_lost_voter_leaves_after_its_time_the_record_last():
    assert step((1, E2, E3), [E3], missing={E2: 4.9}) is None
    change = step((1, E2, E3), [E3], missing={E2: 5})
    assert (change.kind, change.w, change.voters) == ("narrow", 1, [E3])
    assert (change.record_first, change.confirm) == (False, True)
    assert "pg-east-2 has not streamed for 5 s" in change.reason


def test_a_voter_that_streams_joins_the_record_first():
    change = step((1, E3), [E2, E3], on=record(1, [E3]))
    assert (change.kind, change.w, change.voters) == ("widen", 1, [E2, E3])
    assert (change.record_first, change.confirm) == (True, False)


def test_only_what_streams_joins():
    assert step((1, E3), [E3], on=record(1, [E3]), missing={E2: 1}) is None
    catching_up = leader(E1, names='ANY 1 ("pg-east-3")', streaming=[E3])
    catching_up.standbys.append(catching_up.standbys[0].model_copy(update={"name": E2, "state": "catchup"}))
    assert next_set(service(), record(1, [E3]), catching_up, missing_since={}, now=T0) is None


def test_an_asynchronous_standby_never_joins():
    assert step((1, E2, E3), [E2, E3, E4]) is None


class TestRequired:
    def test_the_last_voter_stays_and_writes_wait(self):
        assert step((1, E3), [], on=record(1, [E3]), missing={E2: 60, E3: 60}) is None

    def test_of_two_that_are_lost_both_stay_so_that_the_first_to_come_back_ends_the_wait(self):
        assert step((1, E2, E3), [], missing={E2: 7, E3: 6}) is None

    def test_never_below_the_acknowledgements(self):
        of, on = service(synchronous=THREE), record(2, [E2, E3, E4])
        assert step((2, E2, E3, E4), [E2], of=of, on=on, missing={E3: 9, E4: 8}) is None
        change = step((2, E2, E3, E4), [E2, E4], of=of, on=on, missing={E3: 9})
        assert (change.w, change.voters) == (2, [E2, E4])
        assert step((2, E2, E4), [E2], of=of, on=record(2, [E2, E4]), missing={E3: 9, E4: 8}) is None


class TestAvailable:
    def test_without_voters_it_acknowledges_alone_the_record_first(self):
        change = step((1, E3), [], of=AVAILABLE, on=record(1, [E3]), missing={E2: 9, E3: 9})
        assert (change.w, change.voters, change.record_first) == (0, [], True)

    def test_w_falls_before_a_voter_leaves(self):
        of = service(synchronous=THREE | {"policy": "available"})
        first = step((2, E2, E3), [E2], of=of, on=record(2, [E2, E3]), missing={E3: 9})
        assert (first.w, first.voters, first.record_first) == (1, [E2, E3], True)
        second = step((1, E2, E3), [E2], of=of, on=record(1, [E2, E3]), missing={E3: 9})
        assert (second.w, second.voters, second.record_first, second.confirm) == (1, [E2], False, True)

    def test_after_a_promotion_without_names_they_are_set_and_confirmed_before_the_record(self):
        change = step("", [E2], of=AVAILABLE, on=record(0, []), missing={E3: 1})
        assert (change.w, change.voters, change.record_first, change.confirm) == (1, [E2], False, True)


class TestAcknowledgementsRise:
    of = service(synchronous=THREE)

    def test_voters_first_then_w(self):
        first = step((1, E2), [E2, E3, E4], of=self.of, on=record(1, [E2]))
        assert (first.kind, first.w, first.voters, first.record_first) == ("widen", 1, [E2, E3, E4], True)
        second = step((1, E2, E3, E4), [E2, E3, E4], of=self.of, on=record(1, [E2, E3, E4]))
        assert (second.w, second.voters, second.record_first, second.confirm) == (2, [E2, E3, E4], False, True)

    def test_a_voter_that_joins_as_w_rises_weakens_nothing(self):
        """Every commit is on both, so whoever holds one of the old set still holds all of it."""
        change = step((1, E2), [E2, E3], of=self.of, on=record(1, [E2]), missing={E4: 1})
        assert (change.w, change.voters, change.record_first, change.confirm) == (2, [E2, E3], False, True)

    def test_not_beyond_what_streams(self):
        assert step((1, E2, E3), [E2], of=self.of, on=record(1, [E2, E3]), missing={E3: 1, E4: 9}) is None


class TestRepair:
    """Record and setting disagree: a crash came between two writes, or a person changed the setting."""

    def test_a_narrowing_that_did_not_reach_the_record(self):
        change = step((1, E3), [E3], missing={E2: 9})
        assert (change.kind, change.voters, change.record_first, change.confirm) == ("repair", [E3], False, True)

    def test_while_nobody_can_confirm_the_record_waits(self):
        assert step((1, E2, E3), [], on=record(0, []), missing={E2: 9, E3: 1}) is None
        assert step((1, E2, E3), [E3], on=record(0, []), missing={E2: 1}).confirm

    def test_a_widening_that_did_not_reach_the_setting(self):
        change = step((1, E3), [E2, E3])
        assert (change.kind, change.voters, change.confirm) == ("repair", [E2, E3], False)

    def test_a_setting_that_the_record_does_not_bind_widens_the_record_before_all_else(self):
        change = step((1, E2, E4), [E2, E3, E4])
        assert (change.kind, change.w, change.record_first) == ("repair", 1, True)
        assert set(change.voters) == {E2, E3, E4}

    def test_a_setting_that_was_emptied_makes_the_record_say_so(self):
        change = step("", [E2, E3])
        assert (change.kind, change.w, change.voters, change.record_first) == ("repair", 0, [], True)
        then = step("", [E2, E3], on=record(0, []))
        assert (then.w, then.voters, then.record_first, then.confirm) == (1, [E2, E3], False, True)

    def test_a_setting_that_can_not_be_read_is_not_touched_before_the_record_says_so(self):
        change = step("*", [E2, E3])
        assert (change.w, change.voters, change.record_first, change.apply) == (0, [], True, False)
        then = step("*", [E2, E3], on=record(0, []))
        assert (then.w, then.voters, then.record_first, then.apply) == (1, [E2, E3], False, True)

    def test_a_voter_that_is_declared_no_more_leaves(self):
        of = service(synchronous={"voters": [E1, E3]})
        assert step((1, E2, E3), [E2, E3], of=of).voters == [E3]


class TestHandsOff:
    @pytest.mark.parametrize(
        "changed",
        [
            {"force": 'FIRST 1 ("__fenced__")'},
            {"on": record(candidate=E2)},
            {"on": record(leader=E2)},
            {"in_recovery": True},
        ],
    )
    def test_a_primary_that_is_fenced_replaced_or_no_primary(self, changed):
        assert step(**({"force": (1, E2, E3), "streaming": [E3], "missing": {E2: 60}} | changed)) is None

    def test_one_that_is_not_reached(self):
        assert next_set(service(), record(), gone(E1), missing_since={}, now=T0) is None
        assert next_set(service(), record(), standby(E2), missing_since={}, now=T0) is None

    def test_a_service_that_declares_no_voters_keeps_its_own_setting(self):
        of = service(synchronous={"voters": []}, failover={"candidates": [E2]})
        assert step("", [E2], of=of, on=record(0, [])) is None
        assert step("*", [E2], of=of, on=record(0, [])) is None
        change = step((1, E2), [E2], of=of, on=record(0, []))
        assert (change.w, change.voters, change.record_first, change.confirm) == (1, [E2], False, True)
