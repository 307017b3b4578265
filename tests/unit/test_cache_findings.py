"""In what order a cache's histories stand, and whose keys survive: state in, state out."""

from __future__ import annotations

import pytest

from lab import findings
from lab.cache_findings import Place, lineage, ordered, survivor
from lab.cache_traffic import Route
from lab.ledger import Entry
from lab.resp import info, pack

A, B, C = "127.0.1.41:1", "127.0.1.42:1", "127.0.1.43:1"


def entry(server: str, replid: str, at: float, parent: str = "", sent: float | None = None) -> Entry:
    return Entry(
        id=f"{server}{at}",
        route="cache-dns",
        writer="w",
        sent=at - 0.001 if sent is None else sent,
        acked=at,
        server=server,
        replid=replid,
        parent=parent,
        outcome="acknowledged",
    )


def master(server: str, replid: str, parent: str = "", replicas: int = 0) -> Place:
    return Place(server, "master", replid, parent, replicas)


def convicted(entries: list[Entry], places: list[Place]) -> list[str]:
    tip = survivor(places, entries)
    assert isinstance(tip, Place)
    return [each.server for each in findings.convictions(ordered(entries, places, tip.replid))]


class TestOrder:
    def test_a_promotion_begins_a_later_history(self) -> None:
        entries = [entry(A, "r1", 1), entry(B, "r2", 5, "r1"), entry(B, "r2", 6, "r1")]
        places = [Place(A, "unreachable"), master(B, "r2", "r1", 2)]
        assert [each.timeline for each in ordered(entries, places, "r2")] == [1, 2, 2]
        assert convicted(entries, places) == []

    def test_an_old_master_that_goes_on_is_convicted(self) -> None:
        entries = [entry(A, "r1", 1), entry(B, "r2", 5, "r1"), entry(A, "r1", 6)]
        assert convicted(entries, [master(A, "r1"), master(B, "r2", "r1", 2)]) == [A]

    def test_what_was_sent_before_is_no_offence(self) -> None:
        entries = [entry(A, "r1", 1), entry(B, "r2", 5, "r1"), entry(A, "r1", 5.1, sent=4.9)]
        assert convicted(entries, [master(A, "r1"), master(B, "r2", "r1", 2)]) == []

    def test_an_old_master_that_restarts_is_convicted_though_its_history_is_the_youngest(self) -> None:
        entries = [entry(A, "r1", 1), entry(B, "r2", 5, "r1"), entry(A, "r3", 7), entry(B, "r2", 8, "r1")]
        assert convicted(entries, [master(A, "r3"), master(B, "r2", "r1", 2)]) == [A]

    def test_a_master_that_restarts_in_its_place_is_none(self) -> None:
        entries = [entry(A, "r1", 1), entry(A, "r3", 7)]
        assert convicted(entries, [master(A, "r3", replicas=3)]) == []

    def test_a_replica_made_a_master_by_hand_is_convicted_and_not_its_master(self) -> None:
        entries = [entry(A, "r1", 1), entry(C, "x", 5, "r1"), entry(A, "r1", 6), entry(C, "x", 7, "r1")]
        assert convicted(entries, [master(A, "r1", replicas=2), master(C, "x", "r1")]) == [C]

    def test_out_and_home_again(self) -> None:
        entries = [entry(A, "r1", 1), entry(B, "r2", 5, "r1"), entry(A, "r3", 9, "r2"), entry(A, "r3", 10, "r2")]
        places = [master(A, "r3", "r2", 3), Place(B, "replica", "r3", "r2")]
        assert [each.timeline for each in ordered(entries, places, "r3")] == [1, 2, 3, 3]
        assert convicted(entries, places) == []

    def test_a_lineage_that_bites_its_tail_ends(self) -> None:
        assert lineage("r1", {"r1": "r2", "r2": "r1"}) == ["r1", "r2"]


class TestSurvivor:
    def test_the_one_that_most_replicas_follow(self) -> None:
        entries = [entry(A, "r1", 1), entry(B, "r2", 5, "r1"), entry(A, "r1", 6)]
        found = survivor([master(A, "r1"), master(B, "r2", "r1", 2)], entries)
        assert isinstance(found, Place)
        assert found.address == B

    def test_a_promoted_one_that_no_client_has_reached_yet(self) -> None:
        found = survivor([Place(A, "unreachable"), master(B, "r2", "r1")], [entry(A, "r1", 1)])
        assert isinstance(found, Place)
        assert found.address == B

    def test_one_that_came_back_from_before_is_none(self) -> None:
        entries = [entry(A, "r1", 1), entry(B, "r2", 5, "r1")]
        found = survivor([master(A, "r3"), Place(B, "unreachable")], entries)
        assert isinstance(found, str)
        assert "acknowledged last" in found

    def test_a_master_that_restarts_without_data_is_one_and_what_it_lost_is_missing(self) -> None:
        found = survivor([master(A, "r3", replicas=3)], [entry(A, "r1", 1)])
        assert isinstance(found, Place)
        assert found.address == A

    @pytest.mark.parametrize("state", ["replica", "silent", "unreachable"])
    def test_nobody_leads(self, state: str) -> None:
        found = survivor([Place(A, state)], [entry(A, "r1", 1)])  # type: ignore[arg-type]
        assert isinstance(found, str)
        assert state in found


class TestWire:
    def test_a_route_by_name(self) -> None:
        route = Route.from_dsn("redis://app:secret@counting-cache.lab:20000/0?wait=yes")
        assert route == Route("app", "secret", "counting-cache.lab", 20000, waits=True)
        assert not Route.from_dsn("redis://app:secret@counting-cache.lab:20000/0").waits

    def test_a_route_by_sentinels(self) -> None:
        route = Route.from_dsn("redis+sentinel://app:secret@127.0.1.51:1,127.0.1.52:1/mymaster")
        assert route.sentinels == (("127.0.1.51", 1), ("127.0.1.52", 1))
        assert route.monitored == "mymaster"

    def test_words_and_answers(self) -> None:
        assert pack(("SET", "k", "é")) == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\xc3\xa9\r\n"
        assert info("# Replication\r\nrole:master\r\nslave0:ip=127.0.0.1,port=1\r\n") == {
            "role": "master",
            "slave0": "ip=127.0.0.1,port=1",
        }
        assert info(None) == {}
