"""What a ledger proves: state in, findings out."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import findings, ledger
from lab.ledger import Entry, Ledger, LedgerUnreadable, Span

OLD, NEW = "127.0.1.1:20000", "127.0.1.2:20000"


def ack(
    at: float, server: str = OLD, timeline: int = 1, *, sent: float | None = None, route: str = "dns", key: str = "x"
) -> Entry:
    return Entry(
        id=key,
        route=route,
        writer="w",
        sent=at - 0.01 if sent is None else sent,
        acked=at,
        server=server,
        timeline=timeline,
        outcome="acknowledged",
    )


def unknown(sent: float) -> Entry:
    return Entry(id="u", route="dns", writer="w", sent=sent, outcome="unknown", error="lost")


def gap(entries: list[Entry], *spans: Span, now: float, running: bool = True) -> findings.RouteFinding:
    return findings.routes(["dns"], entries, spans, now=now, running=running)["dns"]


class TestConcurrentWriters:
    def test_a_clean_failover_convicts_nobody(self) -> None:
        entries = [ack(1), ack(2), unknown(2.05), ack(3, NEW, 2), ack(4, NEW, 2)]
        assert findings.convictions(entries) == []

    def test_a_split_brain_convicts_the_old_primary_alone(self) -> None:
        entries = [ack(1), ack(3, NEW, 2), ack(3.5), ack(4, NEW, 2), ack(5)]
        (conviction,) = findings.convictions(entries)
        assert conviction.server == OLD
        assert "2 writes" in conviction.reason

    def test_an_acknowledgement_in_flight_is_no_offence(self) -> None:
        """Sent before the new primary's first acknowledgement: it must be in the surviving history, no more."""
        assert findings.convictions([ack(3, NEW, 2), ack(3.003, OLD, 1, sent=2.5)]) == []

    def test_a_write_sent_just_after_it_is_one(self) -> None:
        assert findings.convictions([ack(3, NEW, 2), ack(3.1, OLD, 1, sent=3.001)])

    def test_failback_to_the_old_server_on_a_later_timeline_convicts_nobody(self) -> None:
        assert findings.convictions([ack(1), ack(2, NEW, 2), ack(3, OLD, 3), ack(4, OLD, 3)]) == []

    def test_two_servers_on_one_timeline_convict_the_later(self) -> None:
        """pg_rewind without -R (safety.md, "Rejoin")."""
        (conviction,) = findings.convictions([ack(1), ack(2, NEW, 1), ack(3), ack(4, NEW, 1)])
        assert conviction.server == NEW

    def test_an_answer_with_a_warning_is_no_acknowledgement(self) -> None:
        warned = ack(4).model_copy(update={"outcome": "unknown", "error": "warning 01000"})
        assert findings.convictions([ack(1), ack(3, NEW, 2), warned]) == []

    def test_three_servers_two_of_them_wrong(self) -> None:
        third = "127.0.1.3:20000"
        entries = [ack(1), ack(2, NEW, 2), ack(3, third, 3), ack(4, NEW, 2), ack(5), ack(6, third, 3)]
        assert {each.server for each in findings.convictions(entries)} == {OLD, NEW}


def there_and_back(loops: int) -> list[Entry]:
    """Failover and failback, again and again: each leadership is on a timeline of its own, ten rows long."""
    return [
        ack(10 * turn + row, (OLD, NEW)[turn % 2], turn + 1, route=route)
        for turn in range(2 * loops)
        for row in range(1, 10)
        for route in ("dns", "pooled")
    ]


class TestManyLeaderships:
    """The same two servers lead by turns, as in the demo of the round trip."""

    def test_there_and_back_twenty_times_convicts_nobody(self) -> None:
        assert findings.convictions(there_and_back(20)) == []

    @pytest.mark.parametrize("turn", [0, 1, 17, 38])
    def test_an_old_primary_that_returns_as_it_was_is_convicted(self, turn: int) -> None:
        """It led before and since, each time by right; but not on that timeline at that moment."""
        server = (OLD, NEW)[turn % 2]
        returned = ack(10 * turn + 15.5, server, turn + 1)
        (conviction,) = findings.convictions([*there_and_back(20), returned])
        assert (conviction.server, conviction.timeline) == (server, turn + 1)
        assert "acknowledged 1 writes" in conviction.reason

    @pytest.mark.parametrize("turn", [1, 38])
    def test_a_former_primary_that_writes_on_the_new_ones_timeline_is_convicted(self, turn: int) -> None:
        """pg_rewind without -R in the middle of it all."""
        other = (NEW, OLD)[turn % 2]
        (conviction,) = findings.convictions([*there_and_back(20), ack(10 * turn + 5.5, other, turn + 1)])
        assert (conviction.server, conviction.timeline) == (other, turn + 1)

    def test_in_flight_at_each_change_is_no_offence(self) -> None:
        late = [ack(10 * turn + 11.2, (OLD, NEW)[turn % 2], turn + 1, sent=10 * turn + 10.5) for turn in range(39)]
        assert findings.convictions([*there_and_back(20), *late]) == []

    def test_one_timeline_may_be_handed_over_but_not_shared(self) -> None:
        """A standby that never heard of one that was promoted and died takes the same number when it is promoted."""
        third = "127.0.1.3:20000"
        entries = [ack(1), ack(3, NEW, 2), ack(4, NEW, 2), ack(6, third, 2), ack(7, third, 2)]
        assert findings.convictions(entries) == []
        (conviction,) = findings.convictions([*entries, ack(8, NEW, 2)])
        assert "on timeline 2" in conviction.reason


class TestBesideTheLeader:
    def test_the_newest_timeline_leads(self) -> None:
        leader, convicted = findings.beside_the_leader({OLD: 1, NEW: 2}, [ack(1)])
        assert leader == NEW
        assert [each.server for each in convicted] == [OLD]

    def test_among_equals_the_one_that_clients_know_leads(self) -> None:
        leader, convicted = findings.beside_the_leader({OLD: 2, NEW: 2}, [ack(1), ack(2, NEW, 2)])
        assert leader == NEW
        assert [each.server for each in convicted] == [OLD]

    def test_among_equals_one_that_is_guilty_already_does_not_lead(self) -> None:
        leader, convicted = findings.beside_the_leader({OLD: 2, NEW: 2}, [ack(1, NEW, 2), ack(2, OLD, 2)], [OLD])
        assert leader == NEW
        assert [each.server for each in convicted] == [OLD]

    def test_a_tie_that_nothing_breaks_convicts_too(self) -> None:
        _, convicted = findings.beside_the_leader({OLD: 1, NEW: 1}, [])
        assert len(convicted) == 1

    def test_one_alone_is_the_leader_and_none_is_nobody(self) -> None:
        assert findings.beside_the_leader({NEW: 2}, []) == (NEW, [])
        assert findings.beside_the_leader({}, [ack(1)]) == (None, [])


class TestRoutes:
    def test_the_longest_gap_between_acknowledgements(self) -> None:
        found = gap([ack(10), ack(10.5), ack(13), ack(13.2)], Span(pid=1, started=9.9), now=13.4)
        assert found == findings.RouteFinding(longest_gap_s=2.5, writing=True)

    def test_a_gap_that_has_not_ended_counts_to_now(self) -> None:
        found = gap([ack(10), ack(10.5)], Span(pid=1, started=10), now=17.5)
        assert found == findings.RouteFinding(longest_gap_s=7.0, writing=False)

    def test_an_orderly_stop_ends_it(self) -> None:
        found = gap([ack(10), ack(10.5)], Span(pid=1, started=10, stopped=11), now=90, running=False)
        assert found == findings.RouteFinding(longest_gap_s=0.5, writing=False)

    def test_time_between_two_loads_is_nobodys_outage(self) -> None:
        spans = Span(pid=1, started=10, stopped=11), Span(pid=2, started=60)
        assert gap([ack(10.5), ack(60.2)], *spans, now=60.4).longest_gap_s == 0.5

    def test_a_load_that_died_counts_until_the_next_began(self) -> None:
        spans = Span(pid=1, started=10), Span(pid=2, started=60)
        assert gap([ack(10.5), ack(60.2)], *spans, now=60.4).longest_gap_s == 49.5

    def test_a_route_that_never_wrote_is_out_since_the_start(self) -> None:
        found = gap([ack(10, route="other")], Span(pid=1, started=10), now=14)
        assert found == findings.RouteFinding(longest_gap_s=4.0, writing=False)

    def test_without_a_load_there_is_no_gap(self) -> None:
        assert gap([], now=14, running=False) == findings.RouteFinding(longest_gap_s=0.0, writing=False)


def test_the_last_acknowledgement_on_the_newest_timeline_names_the_survivor() -> None:
    newest = findings.newest_acknowledger([ack(1), ack(3, NEW, 2), ack(9)])
    assert newest is not None
    assert newest.server == NEW


class TestFile:
    def test_what_is_recorded_is_read_again(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.jsonl"
        with Ledger(path) as book:
            book.record(ack(1))
            book.record(unknown(2))
        with Ledger(path) as book:
            book.record(ack(3))
        assert ledger.read(path) == [ack(1), unknown(2), ack(3)]

    def test_a_line_that_is_under_way_is_left_out(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.jsonl"
        with Ledger(path) as book:
            book.record(ack(1))
        path.write_bytes(path.read_bytes() + b'{"id": "ha')
        assert ledger.read(path) == [ack(1)]

    def test_a_broken_line_is_an_error_with_its_number(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.jsonl"
        path.write_bytes(ack(1).model_dump_json().encode() + b"\n{}\n")
        with pytest.raises(LedgerUnreadable, match="line 2"):
            ledger.read(path)

    def test_no_ledger_is_an_error_and_not_an_empty_one(self, tmp_path: Path) -> None:
        with pytest.raises(LedgerUnreadable):
            ledger.read(tmp_path / "ledger.jsonl")

    def test_put_aside_leaves_room_for_a_new_one_and_keeps_the_old(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.jsonl"
        with Ledger(path) as book:
            book.record(ack(1))
        ledger.write_spans(path, [Span(pid=1, started=1)])
        ledger.put_aside(path)
        assert not path.exists()
        assert ledger.read_spans(path) == []
        assert len(list(tmp_path.iterdir())) == 2
