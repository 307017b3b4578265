"""The lab itself: what stands there, its faults, its reset, and that it stays in its own world."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import dns.message
import dns.query
import psutil
import pytest

from activities import rfc2136
from activities.topology import load_topology
from lab import lab as life
from lab import layout, network, pointer, processes
from lab.errors import LabError, LabUnavailable, MissingProgram, NodeRefused, NodeSilent, OutsideLab, UnknownNode
from lab.model import Lab
from lab.observe import until_protected
from lab.paths import PARENT, PREFIX
from lab.postgres import session
from lab.supervise import Supervisor
from lab.waiting import until
from lab.world import addresses, assert_inside
from schemas.failures import TopologyInvalid
from tests.lab.conftest import HOSTILE, PRODUCTION

pytestmark = pytest.mark.lab


async def roles(lab: Lab) -> dict[str, str]:
    return {node.name: node.role for node in (await life.status(lab)).nodes}


def first_roles(lab: Lab) -> dict[str, str]:
    return {node.name: node.role for node in lab.nodes}


def control(lab: Lab, verb: str, node: str) -> subprocess.CompletedProcess[str]:
    """Node control, exactly as the topology has it, from another folder and an empty environment."""
    member = load_topology(lab.topology).service(lab.service).member(node)
    assert member.control is not None
    argv = getattr(member.control, verb)
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, cwd="/", env={})


def resolve(lab: Lab, name: str, kind: str = "A") -> list[str]:
    host, _, port = lab.dns.partition(":")
    answer = dns.query.udp(dns.message.make_query(name, kind), host, timeout=2, port=int(port))
    return [rdata.to_text() for rrset in answer.answer for rdata in rrset]


def lab_processes(lab: Lab) -> list[psutil.Process]:
    supervisor = processes.supervisor(lab.paths)
    assert supervisor is not None
    return [supervisor, *supervisor.children(recursive=True)]


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


class TestEstate:
    async def test_every_node_is_in_its_role(self, lab: Lab) -> None:
        assert await roles(lab) == first_roles(lab)
        assert len(lab.members()) == 6

    async def test_two_voters_acknowledge_and_the_west_cascades(self, lab: Lab) -> None:
        found: dict[str, dict[str, str]] = {}
        for upstream in ("pg-east-1", "pg-west-1"):
            conn = await session(lab, upstream)
            assert conn is not None
            rows = await conn.fetch("SELECT application_name, sync_state FROM pg_stat_replication")
            found[upstream] = {row["application_name"]: row["sync_state"] for row in rows}
            await conn.close()
        assert found == {
            "pg-east-1": {"pg-east-2": "quorum", "pg-east-3": "quorum", "pg-east-4": "async", "pg-west-1": "async"},
            "pg-west-1": {"pg-west-2": "async"},
        }

    @pytest.mark.parametrize("route", ["dns", "pgbouncer-transaction", "pgbouncer-session"])
    async def test_a_row_goes_through_each_route(self, lab: Lab, route: str) -> None:
        dsn = lab.routes[route].replace(layout.RECORD, resolve(lab, layout.RECORD)[0])
        conn = await asyncpg.connect(dsn, ssl=False, statement_cache_size=0, timeout=5)
        try:
            server = await conn.fetchval(
                "INSERT INTO counting_results VALUES ($1, 'camera-1', now(), 3, $2) RETURNING host(inet_server_addr())",
                uuid.uuid4(),
                route,
            )
        finally:
            await conn.close()
        assert server == lab.node(layout.HOME).host

    async def test_the_probe_role_may_write_its_table_and_nothing_else(self, lab: Lab) -> None:
        node = lab.node(layout.HOME)
        conn = await asyncpg.connect(
            host=node.host,
            port=node.port,
            user="lifeboat_probe",
            password=lab.secret("lifeboat_probe"),
            database=layout.DATABASE,
            ssl=False,
        )
        try:
            await conn.execute("INSERT INTO lifeboat.probe (route, region) VALUES ('t', 't') ON CONFLICT DO NOTHING")
            for refused in ("SELECT FROM counting_results", "SELECT FROM lifeboat.heartbeat", "CREATE TABLE t ()"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await conn.execute(refused)
        finally:
            await conn.close()

    def test_the_topology_is_valid_and_its_secrets_are_references(self, lab: Lab) -> None:
        topology = load_topology(lab.topology)
        service = topology.service(lab.service)
        assert (service.detection.failures, service.detection.interval_s) == (3, 0.2)
        assert service.may_be_promoted() == ["pg-east-2", "pg-east-3", "pg-east-1", "pg-east-4"]
        text = lab.topology.read_text(encoding="utf-8")
        assert not any(lab.secret(file.name) in text for file in lab.secrets.iterdir())

    def test_secrets_are_read_by_nobody_else(self, lab: Lab) -> None:
        for file in [*lab.secrets.iterdir(), lab.paths.lab_file, lab.paths.passfile, lab.paths.supervisor_conf]:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        passwords = [lab.secret(file.name) for file in lab.secrets.iterdir()]
        for process in lab_processes(lab):
            with contextlib.suppress(psutil.NoSuchProcess):
                line = " ".join(process.cmdline())
                assert not any(password in line for password in passwords)

    async def test_an_update_of_the_zone_survives_kill_9(self, lab: Lab) -> None:
        zone = load_topology(lab.topology).zone
        update = rfc2136.new_update(zone)
        update.replace(f"_kept.{zone.name}.", 0, "TXT", "epoch=7")
        assert await rfc2136.send(zone, update) == 0
        await life.fault(lab, "kill", "knot-eu")
        await life.fault(lab, "start", "knot-eu")
        assert resolve(lab, f"_kept.{zone.name}", "TXT") == ['"epoch=7"']

    @pytest.mark.skipif(os.geteuid() != 0, reason="as an ordinary user all runs as the caller")
    def test_as_root_the_servers_are_not_root(self, lab: Lab) -> None:
        for node in lab.of_kind("postgresql", "pgbouncer", "knot"):
            for process in processes.tree(lab.paths, node.name):
                assert process.username() == "postgres"


class TestOwnWorld:
    def test_no_process_has_anything_of_a_hostile_users_environment(self, lab: Lab) -> None:
        for process in lab_processes(lab):
            with contextlib.suppress(psutil.NoSuchProcess):
                environ = process.environ()
                assert not any(PRODUCTION in value for value in environ.values()), process
                assert "PGOPTIONS" not in environ
                assert not {"https_proxy", "HTTPS_PROXY", "all_proxy"} & set(environ)

    def test_the_data_stores_know_nothing_of_the_checkout(self, lab: Lab) -> None:
        for node in lab.of_kind("pgbouncer", "knot"):
            for process in processes.tree(lab.paths, node.name):
                environ = process.environ()
                assert "PYTHONPATH" not in environ
                assert sys.prefix not in environ["PATH"]

    def test_every_connection_stays_in_the_lab(self, lab: Lab) -> None:
        seen = 0
        for process in lab_processes(lab):
            with contextlib.suppress(psutil.NoSuchProcess):
                for connection in process.net_connections(kind="inet"):
                    for address in (connection.laddr, connection.raddr):
                        if address:
                            seen += 1
                            assert address.ip.startswith("127."), (process, connection)
        assert seen > 20

    def test_an_address_outside_is_refused(self, lab: Lab) -> None:
        host, _, port = lab.temporal.address.partition(":")
        assert_inside(lab, host, int(port))
        for elsewhere in (("127.0.0.1", 7233), (PRODUCTION, int(port)), (lab.node(layout.HOME).host, 5432)):
            with pytest.raises(OutsideLab):
                assert_inside(lab, *elsewhere)
        assert not {port for _, port in addresses(lab)} & {53, 5432, 6432, 7233, 8233}

    async def test_commands_reach_the_lab_from_a_hostile_environment(self, lab: Lab) -> None:
        command = [sys.executable, "-c", "from cli.main import main; main()", "lab", "status", "--json"]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            env={**os.environ, **HOSTILE, "LIFEBOAT_LAB": str(lab.folder)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert set(answer) == {"temporal", "nodes", "routes"}
        assert set(answer["temporal"]) == {"address", "namespace", "task_queue", "ui", "cli"}
        assert {node["name"]: node["role"] for node in answer["nodes"]} == first_roles(lab)
        assert all(set(node) == {"name", "role", "pid", "address"} for node in answer["nodes"])


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


class TestReset:
    async def test_everything_is_as_it_was(self, lab: Lab) -> None:
        conn = await session(lab, layout.HOME)
        assert conn is not None
        await conn.execute("INSERT INTO counting_results (id) VALUES (gen_random_uuid())")
        await conn.close()
        zone = load_topology(lab.topology).zone
        update = rfc2136.new_update(zone)
        update.replace(f"{layout.RECORD}.", 1, "A", "127.0.1.99")
        update.replace(f"_lifeboat-{lab.service}.{zone.name}.", 0, "TXT", "v=old")
        assert await rfc2136.send(zone, update) == 0
        databases = lab.paths.node("pgbouncer-east") / "databases.ini"
        databases.write_text("[databases]\n", encoding="utf-8")
        for action, name in (
            ("kill", "pg-east-1"),
            ("freeze", "pg-east-2"),
            ("stop", "pgbouncer-west"),
            ("freeze", "worker-eu-west-1"),
            ("stop", "temporal"),
        ):
            await life.fault(lab, action, name)
        lab.paths.autostart_mark("pg-east-1").touch()

        began = time.monotonic()
        await life.reset(lab, overrides={"detection": {"block_s": 1}})
        took = time.monotonic() - began

        assert await roles(lab) == first_roles(lab)
        conn = await session(lab, layout.HOME)
        assert conn is not None
        assert await conn.fetchval("SELECT count(*) FROM counting_results") == 0
        await conn.close()
        assert resolve(lab, layout.RECORD) == [lab.node(layout.HOME).host]
        assert resolve(lab, f"_lifeboat-{lab.service}.{zone.name}", "TXT") == []
        assert "counting_session" in databases.read_text(encoding="utf-8")
        assert not list((lab.folder / "marks").iterdir())
        assert load_topology(lab.topology).service(lab.service).detection.block_s == 1
        # 8 s on a machine that does nothing else; this one may be shared.
        assert took < 8 * max(1.0, os.getloadavg()[0])

    async def test_the_watch_is_started_and_has_an_epoch_to_stand_on(self, lab: Lab) -> None:
        await life.reset(lab, watch=True)
        zone = load_topology(lab.topology).zone
        (record,) = resolve(lab, f"_lifeboat-{lab.service}.{zone.name}", "TXT")
        assert "leader=pg-east-1" in record
        await life.reset(lab)
        client = await life.connect(lab)
        assert [run async for run in client.list_workflows("ExecutionStatus = 'Running'")] == []


class TestUp:
    async def test_a_topology_that_is_wrong_leaves_nothing(self) -> None:
        with pytest.raises(TopologyInvalid, match="pg-nowhere is not a member") as failed:
            await life.up(overrides={"synchronous": {"voters": ["pg-nowhere"]}}, make_current=False)
        folder = re.search(rf"{PARENT}/{PREFIX}\w+", str(failed.value))
        assert folder is not None
        assert not Path(folder.group()).exists()

    async def test_a_program_that_is_missing_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LIFEBOAT_PG_BIN", "/nonexistent")
        with pytest.raises(MissingProgram, match="LIFEBOAT_PG_BIN"):
            await life.up(make_current=False)

    async def test_two_labs_run_side_by_side_and_the_last_is_the_current_one(
        self, lab: Lab, tmp_path: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        monkeypatch.delenv("LIFEBOAT_LAB", raising=False)
        assert pointer.current() is None
        other = await life.up(workers=False)
        try:
            assert pointer.current() == other
            assert not addresses(lab) & addresses(other)
            assert (await roles(lab)) == first_roles(lab)
            assert (await roles(other))["pg-east-1"] == "primary"
            monkeypatch.setenv("LIFEBOAT_LAB", str(lab.folder))
            assert pointer.require().folder == lab.folder
            monkeypatch.delenv("LIFEBOAT_LAB")
        finally:
            await life.down(other)
        assert not other.folder.exists()
        with pytest.raises(LabUnavailable, match="lifeboat lab up"):
            pointer.require()


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
