"""What a damaged database is repaired by, and when a share of writes can't stay."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from activities.damage import looking_at, pulse_of
from activities.pooler_shares import drawing, may_draw
from schemas.corruption import CorruptionPolicy
from schemas.damage import Damaged, DamageEvidence, MemberDamage, Pulse
from schemas.routes import PgBouncerRoute
from workflows.policy.damage import unwell, written_to

HEAP = Damaged(kind="heap", relation="counting.public.archived", told="bad")
INDEX = Damaged(kind="index", relation="counting.public.archived_pkey", told="bad")


@pytest.mark.parametrize(
    ("pulse", "share", "why"),
    [
        (Pulse(commits=100), 0.1, ""),
        (Pulse(commits=100, read_only=False), 1.0, ""),
        (Pulse(commits=100, read_only=True), 1.0, "it is read-only still"),
        (Pulse(commits=100, read_only=True), 0.1, ""),
        # Who may not write rolls back: of a share it says nothing.
        (Pulse(commits=10, rollbacks=90), 0.1, ""),
        (Pulse(commits=10, rollbacks=90, read_only=False), 1.0, "90 of 100 transactions were rolled back"),
        (Pulse(commits=80, rollbacks=20, read_only=False), 1.0, ""),
        (Pulse(commits=1, rollbacks=9, read_only=False), 1.0, ""),
        (Pulse(commits=100, failures=1), 0.1, "1 pages failed their checksum"),
        (Pulse(broke="it was restarted"), 0.1, "it was restarted"),
    ],
)
def test_how_a_leader_fares(pulse: Pulse, share: float, why: str) -> None:
    found = unwell(pulse, share, 0.2)
    assert found.startswith(why)
    assert bool(found) == bool(why)


COUNTS = {"commits": 10, "rollbacks": 5, "failures": 1, "began": 1, "standby": False, "declared": "on"}


@pytest.mark.parametrize(
    ("later", "pulse"),
    [
        ({"commits": 12, "rollbacks": 6}, Pulse(commits=2, rollbacks=1)),
        ({"failures": 2}, Pulse(failures=1)),
        ({"declared": None}, Pulse(read_only=False)),
        ({"commits": 3}, "counters began anew"),
        ({"began": 2}, "restarted"),
        ({"standby": True}, "follows another"),
    ],
)
def test_two_looks_at_a_servers_counters(later: dict[str, object], pulse: Pulse | str) -> None:
    found = pulse_of(COUNTS, COUNTS | later)
    if isinstance(pulse, Pulse):
        assert found == pulse
    else:
        assert pulse in found.broke


def test_what_was_repaired_is_named_once() -> None:
    found = DamageEvidence(
        members=[MemberDamage(member="one", damaged=[HEAP, INDEX]), MemberDamage(member="two", damaged=[HEAP])]
    )
    told = written_to(found, ["public.orders", "public.archived"], "counting")
    assert {(each.kind, each.relation) for each in told} == {
        ("heap", "counting.public.archived"),
        ("index", "counting.public.archived_pkey"),
        ("heap", "counting.public.orders"),
    }


def test_a_relation_is_named_so_that_sql_takes_it() -> None:
    odd = HEAP.model_copy(update={"relation": """counting.Sche"ma.it's.odd"""})
    query = looking_at(odd, 3)
    assert """to_regclass('"Sche""ma"."it''s.odd"')""" in query.sql
    assert (query.database, query.name, query.expect) == ("counting", "relation-3", "t")


FILE = """; lifeboat.epoch = 7
[databases]
counting = host=10.0.0.1 port=5432 dbname=counting pool_mode=transaction
counting_session = host=10.0.0.1 port=5432 dbname=counting pool_mode=session
other = host=10.0.0.9 port=5432
"""
DRAW = " connect_query='SELECT set_config(''default_transaction_read_only'', ''off'', false) WHERE random() < 0.1000'\n"
OURS = ("counting", "counting_session")


def test_the_routes_databases_draw_and_no_other() -> None:
    text = drawing(FILE, OURS, 0.1)
    assert text.count(DRAW) == 2
    assert text.splitlines()[-1] == "other = host=10.0.0.9 port=5432"
    assert drawing(text, OURS, 0.1) == text
    assert drawing(text, OURS, 0.5) == drawing(FILE, OURS, 0.5) != text
    assert drawing(text, OURS, 0.0) == FILE


def test_an_owners_own_query_for_new_sessions_stays() -> None:
    route = PgBouncerRoute(
        name="pooler",
        host="10.0.0.2",
        port=6432,
        region="us-east-1",
        databases={"counting": "dbname=counting connect_query='SELECT 1'", "other": "dbname=counting"},
        databases_file="/etc/pgbouncer/databases.ini",
    )
    assert may_draw(route) == ["other"]


@pytest.mark.parametrize("shares", [[0.5, 0.1], [0.1, 0.1], [0.0], [1.0]])
def test_shares_rise_between_none_and_all(shares: list[float]) -> None:
    with pytest.raises(ValidationError):
        CorruptionPolicy(shares=shares)
    assert CorruptionPolicy(shares=[]).shares == []
