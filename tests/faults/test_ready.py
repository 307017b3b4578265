"""Preflight on real servers: nothing on a sound estate, every fault on another, and what is down is a finding."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from lab.lab import fault
from lab.owner import give
from lab.postgres import session
from lab.supervise import Supervisor
from schemas.ready import Finding, ReadyReport
from tests.faults.scene import ROOT, Scene

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.campaign]

SCRIPT = "import sys; from cli.main import main; sys.argv[0] = 'lifeboat'; main()"


async def ready(scene: Scene, *more: str) -> tuple[int, str]:
    """The command as a person types it: its exit code, and its answer or what it complains of."""
    arguments = ["ready", *more, "--address", scene.lab.temporal.address]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", SCRIPT, *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert b"Traceback" not in err, err.decode()
    return process.returncode or 0, (out or err).decode()


async def findings(scene: Scene) -> list[Finding]:
    _, text = await ready(scene, scene.lab.service, "--json")
    (service,) = ReadyReport.model_validate_json(text).services
    return service.findings


async def say(scene: Scene, member: str, *statements: str) -> Any:
    """As the server's owner; the answer to the last statement."""
    conn = await session(scene.lab, member)
    assert conn is not None
    try:
        for statement in statements[:-1]:
            await conn.execute(statement)
        return await conn.fetchval(statements[-1])
    finally:
        await conn.close()


async def change(scene: Scene, member: str, *, restart: bool = False, **settings: str) -> None:
    alter = [f"ALTER SYSTEM SET {name} = '{value}'" for name, value in settings.items()]
    await say(scene, member, *alter, "SELECT pg_reload_conf()")
    if restart:
        await fault(scene.lab, "stop", member)
        await fault(scene.lab, "start", member)


def names(found: list[Finding], check: str, where: str) -> bool:
    return any(each.check == check and where in each.where for each in found)


async def test_nothing_is_found_on_a_sound_estate(scene: Scene) -> None:
    """But that this lab has no backups, which tests/lab/test_backup_take.py sees to."""
    code, text = await ready(scene)
    assert code == 0, text
    assert "counting-db is ready, with reserves: 1 warning; " in text, text
    assert "6 members and 3 routes, seen from us-east-1, us-west-2, eu-west-1" in " ".join(text.split())
    assert (await ready(scene, "--strict"))[0] == 1
    code, text = await ready(scene, "--json")
    assert code == 0
    (service,) = json.loads(text)["services"]
    assert (service["service"], [each["check"] for each in service["findings"]]) == ("counting-db", ["backup-declared"])
    code, text = await ready(scene, "nobodys-db")
    assert code == 2


SEEDED = [
    ("backup-declared", "counting-db"),
    ("plain-password", "members.0.control.kill.1"),
    ("fence", "pg-east-2"),
    ("voters", "counting-db"),
    ("name-ttl", "counting-db.lab.lifeboat.test"),
    ("worker", "eu-west-1"),
    ("watch", "counting-db"),
    ("secret", "worker of us-east-1, worker of us-west-2"),
    ("epoch-record", "counting-db"),
    ("hot-standby", "pg-west-2"),
    ("durable", "pg-west-1"),
    ("receiver-timeout", "pg-east-3"),
    ("senders", "pg-east-1"),
    ("slots", "pg-east-1"),
    ("wal-kept", "pg-east-2"),
    ("archive", "pg-east-1"),
    ("standby-limits", "pg-east-2, pg-east-3, pg-east-4, pg-west-1"),
    ("synchronous-commit", "role app"),
    ("synchronous-commit", "pg-east-1"),
    ("read-only", "role lifeboat_probe"),
    ("apply-delay", "pg-east-2"),
    ("upstream", "pg-east-4"),
    ("application-name", "pg-west-1"),
    ("conninfo-password", "pg-west-1"),
    ("timeline-target", "pg-east-3"),
    ("pending-restart", "pg-east-4"),
    ("rights", "pg-east-1"),
    ("rewind-rights", "pg-east-1"),
    ("node-control", "pg-west-1"),
    ("data-folder", "pg-east-3"),
    ("pooler", "pgbouncer-east"),
    ("pooler-leads", "pgbouncer-west"),
    ("pooler-settings", "pgbouncer-west"),
]


async def spoil_servers(scene: Scene) -> None:
    lab = scene.lab
    # In the catalogue, and so first: with too low limits the standbys replay no more.
    await say(
        scene,
        "pg-east-1",
        "ALTER ROLE app SET synchronous_commit = off",
        "ALTER ROLE lifeboat_probe SET default_transaction_read_only = on",
        "REVOKE pg_signal_backend FROM lifeboat",
        "REVOKE EXECUTE ON FUNCTION pg_read_binary_file(text) FROM replicator",
        "SELECT pg_create_physical_replication_slot('forgotten', true)",
    )
    await change(scene, "pg-east-2", restart=True, wal_keep_size="0")
    await change(scene, "pg-east-2", recovery_min_apply_delay="1min")
    await change(scene, "pg-east-3", restart=True, recovery_target_timeline="current", wal_receiver_timeout="1min")
    await change(scene, "pg-east-4", max_worker_processes="9", primary_conninfo="host=nowhere.test user=replicator")
    conninfo = await say(scene, "pg-west-1", "SHOW primary_conninfo")
    conninfo = conninfo.replace("application_name=pg-west-1", "application_name=west password=hunter2")
    await change(scene, "pg-west-1", fsync="off", primary_conninfo=conninfo)
    await say(scene, "pg-west-2", "ALTER SYSTEM SET hot_standby = off", "SELECT 1")
    await fault(lab, "stop", "pg-west-2")
    await asyncio.to_thread(Supervisor(lab.paths).start, "pg-west-2")
    await change(
        scene,
        "pg-east-1",
        restart=True,
        max_connections="300",
        max_wal_senders="4",
        archive_mode="on",
        archive_command="false",
        synchronous_commit="local",
    )
    await say(scene, "pg-east-1", "SELECT pg_switch_wal()")


async def spoil_the_rest(scene: Scene) -> None:
    lab = scene.lab
    kept = lab.paths.kept("pg-east-3")
    kept.mkdir()
    give(kept)
    (kept / "begun").write_text("rewind\n", encoding="utf-8")
    await fault(lab, "kill", "pgbouncer-east")
    west = lab.paths.node("pgbouncer-west")
    for file, old, new in (
        ("pgbouncer.ini", "server_login_retry = 0.1", "server_login_retry = 15"),
        ("databases.ini", lab.node("pg-east-1").host, lab.node("pg-east-2").host),
    ):
        path = west / file
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    await fault(lab, "stop", "pgbouncer-west")
    await fault(lab, "start", "pgbouncer-west")
    await fault(lab, "stop", "worker-eu-west-1")

    def declare(declared: dict[str, Any]) -> None:
        (service,) = declared["services"]
        members = {member["name"]: member for member in service["members"]}
        members["pg-east-1"]["control"]["kill"] = ["env", "PGPASSWORD=hunter2", "true"]
        members["pg-west-1"]["control"]["start"] = ["/nowhere/node", "start"]
        del members["pg-east-2"]["control"], members["pg-east-2"]["data"]
        service["synchronous"]["voters"] = ["pg-east-1", "pg-east-2"]
        service["failover"]["candidates"] = ["pg-east-2", "pg-east-3"]
        service["routes"][0]["ttl_s"] = 298
        service["access"]["probe_password"] = "env:NOT_THERE"

    await scene.edit(declare)


@pytest.mark.estate(watch=False)
async def test_every_seeded_fault_is_named(scene: Scene) -> None:
    await spoil_servers(scene)
    await spoil_the_rest(scene)

    async def all_named() -> list[Finding] | None:
        found = await findings(scene)
        return found if all(names(found, *each) for each in SEEDED) else None

    try:
        found = await scene.until("every seeded fault is named", all_named, 40)
    except AssertionError:
        told = await findings(scene)
        missed = [each for each in SEEDED if not names(told, *each)]
        raise AssertionError(f"not named: {missed}\n" + "\n".join(each.text() for each in told)) from None
    assert len(SEEDED) >= 15
    assert not any("hunter2" in each.text() for each in found)
    # What follows from the seeds, and nothing that isn't there.
    seeded = {check for check, _ in SEEDED}
    assert {each.check for each in found} - seeded <= {"replay", "streaming", "reached", "synchronous-names"}
    code, text = await ready(scene, scene.lab.service)
    assert code == 1
    assert "counting-db is not ready: " in text


@pytest.mark.estate(watch=False)
async def test_a_topology_that_can_not_be_used_is_a_finding_and_so_is_a_dead_estate(scene: Scene) -> None:
    for name in ("pg-east-1", "pg-east-2", "knot-eu"):
        await fault(scene.lab, "kill", name)
    await fault(scene.lab, "freeze", "pg-east-3")
    found = await findings(scene)
    for check, where in (
        ("reached", "pg-east-1"),
        ("reached", "pg-east-3"),
        ("leader", "counting-db"),
        ("name", scene.lab.dns),
        ("epoch-record", "counting-db"),
    ):
        assert names(found, check, where), found
    text = scene.lab.topology.read_text(encoding="utf-8")
    scene.lab.topology.write_text(text.replace("password: file:", "password: hunter2-", 1), encoding="utf-8")
    code, told = await ready(scene, scene.lab.service)
    assert code == 1
    assert "[topology]" in told
    assert "hunter2" not in told


@pytest.mark.campaign
@pytest.mark.estate(watch=False)
async def test_without_any_worker_that_is_what_is_found(scene: Scene) -> None:
    for region in scene.lab.regions:
        await fault(scene.lab, "stop", f"worker-{region}")
    (found,) = await findings(scene)
    assert (found.check, found.where) == ("worker", "every region")
