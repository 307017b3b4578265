"""synchronous_standby_names, read as PostgreSQL reads it and written so that it reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.fencing import STALLED
from tests.unit.estates import E2, E3, service
from workflows.policy.names import FENCED
from workflows.policy.voters import follower_names, parse_names, render_names


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("", (0, [])),
        ("  ", (0, [])),
        ('ANY 1 ("pg-east-2","pg-east-3")', (1, [E2, E3])),
        ('any 2 ( "a" , b,c )', (2, ["a", "b", "c"])),
        ('FIRST 1 ("pg-east-2", "pg-east-3")', (1, [E2, E3])),
        ("2 (a, b, c)", (2, ["a", "b", "c"])),
        ("a, b", (1, ["a", "b"])),
        ("a", (1, ["a"])),
        ('"any"', (1, ["any"])),
        ('"odd ""name"""', (1, ['odd "name"'])),
        ("Alpha", (1, ["alpha"])),
        ("ANY 1 (7, b)", (1, ["7", "b"])),
        ("a, a", (1, ["a"])),
        ("*", None),
        ("ANY 1 (*)", None),
        ("ANY 1 (a", None),
        ("ANY 1 a", None),
        ("ANY 1 ()", None),
        ("ANY 0 (a)", None),
        ("ANY (a)", None),
        ("ANY", None),
        ("FIRST", None),
        ("a b", None),
        ("a,", None),
        (",a", None),
        ("pg-east-2", None),
        ('ANY 1 ("a)', None),
        ("ANY 1 (a) b", None),
        ("ANY 1 (a, any)", None),
        ("(a)", None),
    ],
)
def test_parse(text, parsed):
    assert parse_names(text) == parsed


@pytest.mark.parametrize(
    ("w", "names", "text"),
    [
        (1, [E2, E3], 'ANY 1 ("pg-east-2","pg-east-3")'),
        (0, [E2], ""),
        (1, [], ""),
        (3, ["a"], 'ANY 1 ("a")'),
    ],
)
def test_render(w, names, text):
    assert render_names(w, names) == text


@given(
    st.integers(1, 5),
    st.lists(
        st.text(st.characters(codec="ascii", min_codepoint=32), min_size=1).map(str.lower), min_size=1, unique=True
    ),
)
def test_what_is_written_is_read_again(w, names):
    assert parse_names(render_names(w, names)) == (min(w, len(names)), names)


@given(st.text())
def test_any_text_is_read_or_refused(text):
    parsed = parse_names(text)
    assert parsed is None or (parsed[0] > 0) == bool(parsed[1])


def test_a_stalled_primary_is_known_by_its_names():
    assert parse_names(STALLED) == (1, [FENCED])


def test_a_new_primary_starts_with_its_survivors():
    assert follower_names(service(), [E3]) == (1, 'ANY 1 ("pg-east-3")')
    assert follower_names(service(), []) == (0, "")
    assert follower_names(service(synchronous={"policy": "available"}), [E3]) == (0, "")
    both = service(synchronous={"acknowledgements": 2})
    assert follower_names(both, [E2, E3]) == (2, 'ANY 2 ("pg-east-2","pg-east-3")')
    assert follower_names(both, [E3]) == (1, 'ANY 1 ("pg-east-3")')
