"""The lab itself: what stands there, its faults, its reset, and that it stays in its own world."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import uuid
from pathlib import Path

import asyncpg
import psutil
import pytest

from activities import rfc2136
from activities.topology import load_topology
from lab import lab as life
from lab import layout, pointer, processes
from lab.copying import make_equal
from lab.errors import LabError, LabUnavailable, MissingProgram, OutsideLab
from lab.model import Lab
from lab.paths import PARENT, PREFIX
from lab.postgres import session
from lab.world import addresses, assert_inside
from schemas.failures import TopologyInvalid
from schemas.zones import Rfc2136Zone
from tests.lab.conftest import HOSTILE, PRODUCTION
from tests.lab.looks import first_roles, lab_processes, resolve, roles

pytestmark = pytest.mark.lab


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
        assert service.may_be_promoted() == ["pg-east-2", "pg-east-3", "pg-east-1", "pg-east-4", "pg-west-1"]
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
        assert isinstance(zone, Rfc2136Zone)
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
        assert set(answer) == {"temporal", "nodes", "routes", "reads"}
        assert set(answer["temporal"]) == {"address", "namespace", "task_queue", "ui", "cli"}
        assert {node["name"]: node["role"] for node in answer["nodes"]} == first_roles(lab)
        workers = [node for node in answer["nodes"] if node["role"] == "worker"]
        assert workers
        assert all(node.pop("metrics") for node in workers)
        assert all(set(node) == {"name", "role", "pid", "address"} for node in answer["nodes"])


class TestReset:
    async def test_everything_is_as_it_was(self, lab: Lab) -> None:
        conn = await session(lab, layout.HOME)
        assert conn is not None
        await conn.execute("INSERT INTO counting_results (id) VALUES (gen_random_uuid())")
        await conn.close()
        zone = load_topology(lab.topology).zone
        assert isinstance(zone, Rfc2136Zone)
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
        assert isinstance(zone, Rfc2136Zone)
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

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    async def test_an_interrupted_start_leaves_nothing(self, tmp_path: Path, number: signal.Signals) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", "from cli.main import main; main()", "lab", "up"),
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        folder, said = None, b""
        while b"primary is built" not in said:
            said = await asyncio.wait_for(process.stderr.readline(), 30)
            if match := re.search(rb"Lab in (\S+)", said):
                folder = Path(match.group(1).decode())
        assert folder is not None
        process.send_signal(number)
        await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 130
        assert not folder.exists()
        assert not [each for each in psutil.process_iter() if str(folder) in _command_line(each)]

    async def test_a_start_that_fails_says_why_and_leaves_its_logs_alone(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        program = tmp_path / "temporal"
        program.write_text("#!/bin/sh\necho no such flag\nexit 64\n", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("LIFEBOAT_TEMPORAL", str(program))
        with pytest.raises(LabError, match="no such flag") as failed:
            await life.up(make_current=False)
        match = re.search(r"kept in (\S+)/logs", str(failed.value))
        assert match is not None
        folder = Path(match.group(1))
        assert {each.name for each in folder.iterdir()} == {"logs", "marks", "run", "topology.yaml"}
        assert not [each for each in psutil.process_iter() if str(folder) in _command_line(each)]
        shutil.rmtree(folder)

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


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class TestCopying:
    def test_only_what_differs_is_copied_and_what_is_extra_goes(self, tmp_path: Path) -> None:
        kept, folder = tmp_path / "kept", tmp_path / "folder"
        (kept / "base" / "1").mkdir(parents=True)
        for name in ("base/1/a", "base/1/b", "c"):
            (kept / name).write_text("first", encoding="utf-8")
        assert make_equal(kept, folder) == 3
        assert make_equal(kept, folder) == 0
        (folder / "base" / "1" / "a").write_text("other", encoding="utf-8")
        (folder / "postmaster.pid").touch()
        (folder / "c").unlink()
        (folder / "c").mkdir()
        (folder / "extra" / "deep").mkdir(parents=True)
        assert make_equal(kept, folder) == 2
        found = {str(each.relative_to(folder)) for each in folder.rglob("*")}
        assert found == {"base", "base/1", "base/1/a", "base/1/b", "c"}
        assert (folder / "base" / "1" / "a").read_text(encoding="utf-8") == "first"
