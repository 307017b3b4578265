"""What a standby is told of its upstream: libpq must read every value as it was declared."""

from __future__ import annotations

import psycopg.conninfo
import pytest

from activities.fencing import conninfo
from tests.unit.estates import E1, E2, service


@pytest.mark.parametrize("path", ["/var/lib/pgpass", "/a path/with spaces", "/it's", "/back\\slash"])
def test_a_passfile_is_read_as_it_was_declared(path: str) -> None:
    declared = service()
    access = declared.access.model_copy(update={"replication_passfile": path})
    declared = declared.model_copy(update={"access": access})
    text = conninfo(declared, declared.member(E2), declared.member(E1))
    found = psycopg.conninfo.conninfo_to_dict(text)
    assert found["passfile"] == path
    assert (found["host"], found["application_name"]) == (declared.member(E1).host, E2)
