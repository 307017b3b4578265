"""Commands that run where the worker runs: what they leave behind is nobody's to wait for."""

from __future__ import annotations

import asyncio
import time

import pytest
import uvloop

from activities.commands import KEPT, TIMED_OUT, run_command
from schemas.failures import NodeControlFailed


def run(argv: list[str], limit: float = 10.0) -> tuple[int, str]:
    """As a worker does, on its own kind of loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run_command(argv, limit))


def test_what_it_printed_and_its_exit_code() -> None:
    assert run(["sh", "-c", "echo one; echo two >&2; exit 3"]) == (3, "one\ntwo")


def test_a_server_that_it_starts_is_not_waited_for() -> None:
    began = time.monotonic()
    assert run(["sh", "-c", "setsid sleep 5 & echo started"], limit=4.0) == (0, "started")
    assert time.monotonic() - began < 4.0, "it ended long before its child"


def test_the_end_of_much_output() -> None:
    code, output = run(["sh", "-c", "yes 'ä' | head -n 100000; echo last"])
    assert (code, len(output), output[-4:]) == (0, KEPT, "last")


def test_one_that_does_not_end() -> None:
    assert run(["sleep", "30"], limit=0.2) == (TIMED_OUT, "no end within 0.2 s")


def test_one_that_is_not_there() -> None:
    with pytest.raises(NodeControlFailed, match="No such file"):
        run(["/nonexistent/program"])
