"""The lab's faults and node control: what they leave, and what they can't do."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from activities.topology import load_topology
from lab import lab as life
from lab import network, processes
from lab.errors import LabError, NodeRefused, NodeSilent, UnknownNode
from lab.model import Lab
from lab.observe import until_protected
from lab.postgres import session
from lab.supervise import Supervisor
from lab.waiting import until
from tests.lab.looks import roles

pytestmark = pytest.mark.lab


def control(lab: Lab, verb: str, node: str) -> subprocess.CompletedProcess[str]:
    """Node control, exactly as the topology has it, from another folder and an empty environment."""
    member = load_topology(lab.topology).service(lab.service).member(node)
    assert member.control is not None
    argv = getattr(member.control, verb)
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, cwd="/", env={})


@contextlib.asynccontextmanager
async def afterwards_as_before(lab: Lab, *names: str) -> AsyncIterator[None]:
    """Thaw and start the nodes again, whatever happened, and let them stream."""
    try:
        yield
    finally:
        for name in names:
            lab.paths.autostart_mark(name).unlink(missing_ok=True)
            await life.fault(lab, "thaw", name)
            await life.fault(lab, "start", name)
        await until_protected(lab)


class TestFaults:
    async def test_a_kill_leaves_nothing_and_a_start_brings_it_back(self, lab: Lab) -> None:
        async with afterwards_as_before(lab, "pg-east-4"):
            await life.fault(lab, "kill", "pg-east-4")
            assert processes.tree(lab.paths, "pg-east-4") == []
            assert (await roles(lab))["pg-east-4"] == "down"
            for _ in range(2):
                await life.fault(lab, "start", "pg-east-4")
            assert (await roles(lab))["pg-east-4"] == "standby"

    async def test_nothing_that_was_killed_stays_a_zombie(self, lab: Lab) -> None:
        async with afterwards_as_before(lab, "pg-east-4"):
            await life.fault(lab, "kill", "pg-east-4")
            supervisor = processes.supervisor(lab.paths)
            assert supervisor is not None

            async def none() -> bool:
                states = [child.status() for child in supervisor.children(recursive=True)]
                return psutil.STATUS_ZOMBIE not in states

            await until("the supervisor reaps", none, 5)

    async def test_a_frozen_node_does_not_answer_its_control_either(self, lab: Lab) -> None:
        async with afterwards_as_before(lab, "pg-east-4"):
            await life.fault(lab, "freeze", "pg-east-4")
            assert {each.status() for each in processes.tree(lab.paths, "pg-east-4")} == {psutil.STATUS_STOPPED}
            for verb in ("stop", "start", "autostart_off"):
                done = control(lab, verb, "pg-east-4")
                assert done.returncode == 1
                assert "node does not answer" in done.stderr
            with pytest.raises(NodeSilent):
                await life.fault(lab, "stop", "pg-east-4")
            assert (await roles(lab))["pg-east-4"] == "frozen"
            await life.fault(lab, "thaw", "pg-east-4")
            assert (await roles(lab))["pg-east-4"] == "standby"

    async def test_with_its_postmaster_alone_frozen_sessions_go_on_and_control_works(self, lab: Lab) -> None:
        async def held_open() -> object:
            conn = await session(lab, "pg-east-4")
            assert conn is not None
            await life.fault(lab, "freeze", "pg-east-4", postmaster_only=True)
            answer = await conn.fetchval("SELECT 42", timeout=2)
            assert await session(lab, "pg-east-4", limit=0.5) is None
            conn.terminate()
            return answer

        async with afterwards_as_before(lab, "pg-east-4"):
            assert await held_open() == 42
            done = control(lab, "stop", "pg-east-4")
            assert done.returncode == 0, done.stderr
            assert processes.tree(lab.paths, "pg-east-4") == []

    async def test_control_can_be_repeated(self, lab: Lab) -> None:
        async with afterwards_as_before(lab, "pg-west-2"):
            for verb in ("stop", "stop", "start", "start"):
                done = control(lab, verb, "pg-west-2")
                assert done.returncode == 0, done.stderr
            assert not (lab.paths.data("pg-west-2") / "postmaster.pid").read_text().startswith("0")
            assert control(lab, "stop", "pg-west-2").returncode == 0
            assert not (lab.paths.data("pg-west-2") / "postmaster.pid").exists()

    async def test_a_node_whose_autostart_is_off_does_not_return_by_itself(self, lab: Lab) -> None:
        async with afterwards_as_before(lab, "pg-west-2"):
            assert control(lab, "autostart_off", "pg-west-2").returncode == 0
            await life.fault(lab, "kill", "pg-west-2")
            with pytest.raises(NodeRefused):
                await life.fault(lab, "start", "pg-west-2")
            await life.fault(lab, "start", "pg-west-2", force=True)
            assert control(lab, "autostart_on", "pg-west-2").returncode == 0
            await life.fault(lab, "start", "pg-west-2")

    @pytest.mark.parametrize("name", ["worker-us-west-2", "temporal"])
    async def test_temporal_and_the_workers_are_started_again(self, lab: Lab, name: str) -> None:
        before = Supervisor(lab.paths).process(name).pid
        await life.fault(lab, "kill", name)

        async def back() -> bool:
            found = Supervisor(lab.paths).process(name)
            return found.state == "RUNNING" and found.pid != before

        await until(f"{name} is back", back, 20)
        await life.connect(lab)

    async def test_what_does_not_exist_is_named(self, lab: Lab) -> None:
        with pytest.raises(UnknownNode, match="pg-east-1, pg-east-2"):
            await life.fault(lab, "kill", "pg-east-9")
        with pytest.raises(LabError, match="one of: kill"):
            await life.fault(lab, "melt", "pg-east-1")

    async def test_partitions_need_namespaces(self, lab: Lab) -> None:
        with pytest.raises(network.NoNamespaces, match="--netns"):
            await life.partition(lab, "pg-east-1", "us-west-2")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
class TestNamespaces:
    async def test_a_partition_both_ways_and_one_way_and_healed(self) -> None:
        try:
            lab = await life.up(netns=True, workers=False, make_current=False)
        except LabError as error:
            if "ip " in str(error):
                pytest.skip(f"this kernel or container gives no namespaces: {error}")
            raise
        try:
            await life.partition(lab, "pg-east-1", "us-west-2")
            await until("the west is cut off", lambda: followers_are(lab, {"pg-east-2", "pg-east-3", "pg-east-4"}), 15)
            await life.heal(lab)
            await until_protected(lab)
            await life.partition(lab, "pg-east-4", "pg-east-1", one_way=True)
            await until(
                "pg-east-4 is not heard", lambda: followers_are(lab, {"pg-east-2", "pg-east-3", "pg-west-1"}), 15
            )
            await life.heal(lab)
            await until_protected(lab)
        finally:
            await life.down(lab)
        assert not list(Path("/run/netns").glob(network.namespace(lab, "*")))


async def followers_are(lab: Lab, names: set[str]) -> bool:
    conn = await session(lab, "pg-east-1")
    if conn is None:
        return False
    rows = await conn.fetch("SELECT application_name FROM pg_stat_replication")
    conn.terminate()
    return {row["application_name"] for row in rows} == names
