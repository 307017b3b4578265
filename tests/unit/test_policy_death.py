"""Dead, alive, wait or ask: what probes and testimony add up to (safety.md, "Is the primary dead?")."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.facts import MemberFacts
from tests.unit.estates import E1, E2, E3, E4, T0, W1, W2, after, gone, leader, probes, receiver, service, standby
from workflows.policy.death import judge_death, silence_limit_s

ALL_DOWN = probes("refused", "timeout", "refused")


def judge(*standbys: MemberFacts, seen=ALL_DOWN, first_failure=T0, of=None):
    return judge_death(of or service(), E1, seen, standbys, first_failure=first_failure)


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        (("refused", "refused", "refused"), "dead"),
        (("refused", "timeout", "alive"), "dead"),
        (("refused", "timeout", "blind"), "dead"),
        (("refused", "alive", "alive"), "alive"),
        (("timeout", "alive", "blind"), "alive"),
        (("alive", "alive", "alive"), "alive"),
        (("refused", "blind", "blind"), "ask"),
        (("blind", "blind", "blind"), "ask"),
        ((), "ask"),
    ],
)
def test_vantages_are_counted_and_the_blind_have_no_vote(outcomes, state):
    assert judge(standby(E2), standby(E3), seen=probes(*outcomes)).state == state


def test_the_newest_probe_of_a_region_counts():
    back = [probe.model_copy(update={"at": after(1), "outcome": "alive"}) for probe in ALL_DOWN]
    assert judge(standby(E2), seen=[*back, *ALL_DOWN]).state == "alive"


def test_probes_of_other_members_and_of_undeclared_vantages_do_not_count():
    assert judge(standby(E2), seen=probes("refused", "refused", "refused", member=E2)).state == "ask"
    only_east = service(detection={"vantages": ["us-east-1", "us-west-2"], "quorum": 2})
    assert judge(standby(E2), seen=probes("refused", "alive", "refused"), of=only_east).state == "alive"


def test_a_region_that_still_sees_it_is_named():
    death = judge(standby(E2), seen=probes("refused", "refused", "alive"))
    assert (death.state, "eu-west-1 still sees it alive" in death.reason) == ("dead", True)


def test_no_receiver_on_any_direct_standby_is_dead():
    death = judge(standby(E2), gone(E3), standby(E4), standby(W1))
    assert death.state == "dead"
    assert death.votes == {"us-east-1": "refused", "us-west-2": "timeout", "eu-west-1": "refused"}
    assert "no receiver" in death.testimony[E2]
    assert "not reached (connection refused)" in death.testimony[E3]


def test_a_receiver_that_heard_after_the_first_failure_denies_it():
    """All vantages miss it while a standby hears it."""
    death = judge(standby(E2, at=after(1.0), receiver=receiver(silent_s=0.3)), standby(E3))
    assert death.state == "ask"
    assert "unreachable, not dead" in death.reason
    assert E2 in death.reason


def test_a_receiver_that_is_fresh_from_before_the_failure_is_waited_for():
    death = judge(standby(E2, at=after(0.6), receiver=receiver(silent_s=0.7)), standby(E3))
    assert death.state == "wait"
    assert death.wait_s == pytest.approx(4.0 / 2 + 0.2 - 0.7)


def test_the_longest_wait_is_named():
    death = judge(
        standby(E2, at=after(0.6), receiver=receiver(silent_s=0.7)),
        standby(E4, at=after(0.6), receiver=receiver(silent_s=0.6, timeout_s=10)),
    )
    assert death.wait_s == pytest.approx(5.2 - 0.6)


def test_silence_beyond_the_limit_is_dead():
    """A frozen primary: its standby says `streaming` until wal_receiver_timeout."""
    death = judge(standby(E2, at=after(2.2), receiver=receiver(silent_s=2.25)), standby(E3))
    assert death.state == "dead"


def test_one_that_hears_outweighs_many_that_don_t():
    hearing = standby(W1, at=after(2), receiver=receiver(silent_s=0.1))
    assert judge(standby(E2), standby(E3), standby(E4), hearing).state == "ask"


def test_a_cascading_standby_knows_nothing():
    """It streams for ever from its own upstream."""
    cascading = standby(W2, at=after(5), receiver=receiver(W1, silent_s=0.0))
    assert judge(standby(E2), cascading).state == "dead"
    assert judge(cascading).state == "ask"
    assert W2 not in judge(standby(E2), cascading).testimony


def test_a_cascading_standby_that_was_pointed_at_the_suspect_does_testify():
    hearing = standby(W2, at=after(5), receiver=receiver(E1, silent_s=0.0))
    assert judge(standby(E2), hearing).state == "ask"


def test_no_direct_standby_reached_asks():
    death = judge(gone(E2), gone(E3), gone(E4), gone(W1))
    assert death.state == "ask"
    assert "no direct standby can testify" in death.reason
    assert judge().state == "ask"


def test_standbys_that_were_disconnected_can_not_testify():
    """An earlier run cut them off and died: their silence is our own work."""
    assert judge(standby(E2, follows=""), standby(E3, follows="")).state == "ask"
    assert judge(standby(E2, follows=""), standby(E3)).state == "dead"


def test_a_member_that_leads_itself_does_not_testify():
    assert judge(leader(E2)).state == "ask"


def test_an_undeclared_sender_may_be_the_suspect_by_another_name():
    alias = receiver(silent_s=0.0).model_copy(update={"sender_host": "10.9.9.9"})
    death = judge(standby(E2, at=after(5), receiver=alias), standby(E3))
    assert (death.state, "10.9.9.9:6000" in death.reason) == ("ask", True)


def test_a_receiver_without_timeout_never_gets_silent_enough():
    silent = standby(E2, at=after(99), receiver=receiver(silent_s=99.5, timeout_s=0))
    assert judge(silent).state == "ask"


def test_without_a_first_failure_the_earliest_failed_probe_is_it():
    hearing = standby(E2, at=after(1), receiver=receiver(silent_s=0.1))
    assert judge(hearing, first_failure=None).state == "ask"
    assert judge(standby(E2, at=after(0.1), receiver=receiver()), first_failure=None).state == "wait"


def test_the_newest_facts_of_a_standby_count():
    before = standby(E2, at=after(0.1), receiver=receiver(silent_s=0.2))
    assert judge(standby(E2, at=after(0.5)), before).state == "dead"


def test_the_limit_of_silence():
    assert silence_limit_s(receiver(timeout_s=60), 1.0) == 31.0
    assert silence_limit_s(receiver(timeout_s=4), 0.2) == pytest.approx(2.2)


silences = st.one_of(st.none(), st.floats(0, 6, allow_nan=False))


@given(
    outcomes=st.lists(st.sampled_from(["alive", "refused", "timeout", "blind"]), min_size=3, max_size=3),
    silent=st.lists(silences, min_size=4, max_size=4),
    looked=st.floats(0, 6),
)
def test_dead_is_never_said_against_the_quorum_or_a_denial(outcomes, silent, looked):
    facts = [
        standby(name, at=after(looked), receiver=None if s is None else receiver(silent_s=s))
        for name, s in zip((E2, E3, E4, W1), silent, strict=True)
    ]
    death = judge(*facts, seen=probes(*outcomes))
    failing = sum(outcome in ("refused", "timeout") for outcome in outcomes)
    if death.state == "dead":
        assert failing >= 2
        assert all(s is None or s >= 2.2 for s in silent)
        assert not any(s is not None and looked - s > 0.2 for s in silent)
    if death.state == "wait":
        assert 0 < death.wait_s <= 2.2
    assert (death.state == "alive") == (failing < 2 and "alive" in outcomes)


class TestGone:
    """Nothing listens any more, as every region saw that has a vote: it acknowledges nothing from there on."""

    @staticmethod
    def closed(*outcomes, at=(0.1, 0.3, 0.2)):
        return [
            probe.model_copy(update={"closed_at": after(when)}) if probe.outcome == "refused" else probe
            for probe, when in zip(probes(*outcomes), at, strict=False)
        ]

    def test_it_is_when_the_last_of_them_saw_it(self):
        assert judge(standby(E2), seen=self.closed("refused", "refused", "refused")).gone_at == after(0.3)
        assert judge(standby(E2), seen=self.closed("refused", "refused", "blind")).gone_at == after(0.3)

    @pytest.mark.parametrize("third", ["timeout", "alive"])
    def test_silence_is_not_an_end_nor_is_it_where_one_sees_it_alive(self, third):
        death = judge(standby(E2), seen=self.closed("refused", "refused", third))
        assert (death.state, death.gone_at) == ("dead", None)

    def test_a_reset_or_a_server_that_shuts_down_is_refused_and_not_closed(self):
        assert judge(standby(E2), seen=probes("refused", "refused", "refused")).gone_at is None

    def test_whoever_may_be_alive_is_not_gone(self):
        heard = standby(E2, receiver=receiver(), at=after(5))
        death = judge(heard, seen=self.closed("refused", "refused", "refused"))
        assert (death.state, death.gone_at) == ("ask", None)
