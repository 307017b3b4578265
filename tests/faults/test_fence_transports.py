"""The old primary is stopped over SSH or by Systems Manager, or cut off by the cloud's API, in failovers of the lab."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from activities.topology import load_topology
from lab import lab as labs
from lab import processes
from lab.estate import write_topology
from lab.lab import fault
from lab.model import Lab
from tests.faults.scene import Scene
from tests.faults.striking import striking_scene
from tests.lab.cloud import Cloud, running_cloud
from tests.lab.sshd import Sshd, running_sshd

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.estate(watch=False), pytest.mark.campaign]

HOME = "pg-east-1"


@pytest_asyncio.fixture(loop_scope="session")
async def sshd(tmp_path: Path) -> AsyncIterator[Sshd]:
    async with running_sshd(tmp_path) as found:
        yield found


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with running_cloud() as found:
        yield found


def declare(lab: Lab, *, isolation: dict[str, Any] | None = None, **control: Any) -> None:
    """The home primary's node control by another transport, with the lab's own commands; and its isolation."""
    service = load_topology(lab.topology).service(lab.service)
    members = [member.model_dump(mode="json") for member in service.members]
    for member in members:
        if member["name"] == HOME:
            before = {name: argv for name, argv in member["control"].items() if name not in ("kind", "timeout_s")}
            member["control"], member["isolation"] = before | control, isolation
    write_topology(lab, {"members": members})


def instance_of_home(lab: Lab, cloud: Cloud) -> dict[str, Any]:
    """An instance that is the home primary's machine: all that runs there ends when it is stopped."""
    instance = cloud.instance()

    def stop(stopped: str) -> None:
        if stopped == instance:
            processes.kill(lab.paths, HOME)

    cloud.on_stop = stop
    declared = {"kind": "stop-instance", "instance_id": instance, "region": "us-east-1", "endpoint": cloud.endpoint}
    return declared | {"timeout_s": 10}


def state_of(cloud: Cloud, instance: str) -> str:
    found = cloud.client("ec2").describe_instances(InstanceIds=[instance])
    return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])


async def freeze_server(lab: Lab, name: str) -> None:
    """All processes of the server stand still; its machine, and so its node control, does not."""
    await asyncio.to_thread(processes.freeze, lab.paths, name)


async def fails_over_and_stops_the_frozen_primary(scene: Scene, by: str) -> None:
    await labs.start_watch(scene.lab, scene.client)
    await scene.traffic()
    await freeze_server(scene.lab, HOME)
    report = await scene.report(await scene.run_of_watch())
    assert report.outcome == "recovered, unprotected", report
    assert report.fence is not None
    assert report.fence.strength == "stopped", report.fence
    assert f"{HOME} is stopped by {by}" in report.fence.evidence
    assert not any("stop it by hand" in line for line in report.unprotected), report.unprotected
    assert processes.trees(scene.lab.paths, [HOME]) == []
    assert scene.lab.paths.autostart_mark(HOME).exists()
    await scene.safe()


async def test_a_frozen_primary_is_stopped_over_ssh(scene: Scene, sshd: Sshd) -> None:
    declare(scene.lab, **sshd.control())
    await fails_over_and_stops_the_frozen_primary(scene, "SSH")


async def test_a_frozen_primary_is_stopped_by_systems_manager(scene: Scene, cloud: Cloud) -> None:
    declare(scene.lab, **cloud.control(cloud.instance()))
    await fails_over_and_stops_the_frozen_primary(scene, "SSM")
    told = [line.split()[1] for line in cloud.executed]
    assert told[:2] == ["autostart-off", "stop"]
    assert set(told[2:]) <= {"exec"}  # looks at what the old primary holds


async def test_a_changed_host_key_is_told_and_the_failover_goes_on(scene: Scene, sshd: Sshd) -> None:
    sshd.know("user")  # another key than the server's
    declare(scene.lab, **sshd.control())
    await labs.start_watch(scene.lab, scene.client)
    await scene.traffic()
    await fault(scene.lab, "kill", HOME)
    report = await scene.report(await scene.run_of_watch())
    assert report.outcome == "recovered, unprotected", report
    assert report.fence is not None
    assert report.fence.strength == "disconnected", report.fence
    assert any("host key is not one that known_hosts has" in line for line in report.unprotected), report.unprotected
    await scene.safe()


async def test_a_machine_whose_control_fails_is_isolated(scene: Scene, sshd: Sshd, cloud: Cloud) -> None:
    """The whole machine is frozen: its node control doesn't answer, and stopping its instance is the fence."""
    isolation = instance_of_home(scene.lab, cloud)
    declare(scene.lab, isolation=isolation, **sshd.control())
    plan = await scene.report(await scene.start("plan-isolation", dry_run=True))
    told = next(step.detail for step in plan.steps if step.title == "Fence the old primary")
    assert "stop it by SSH" in told
    assert f"stop its instance {isolation['instance_id']}" in told
    assert state_of(cloud, isolation["instance_id"]) == "running"

    await labs.start_watch(scene.lab, scene.client)
    await scene.traffic()
    await fault(scene.lab, "freeze", HOME)
    report = await scene.report(await scene.run_of_watch())
    assert report.outcome == "recovered, unprotected", report
    assert report.fence is not None
    assert report.fence.strength == "isolated", report.fence
    assert f"EC2 says that {isolation['instance_id']} is stopped" in report.fence.evidence
    assert any(f"{HOME} is cut off, and is not known to be stopped" in line for line in report.unprotected)
    assert state_of(cloud, isolation["instance_id"]) == "stopped"
    await scene.safe()
    await fault(scene.lab, "thaw", HOME)
    await scene.safe()


@pytest.mark.campaign
async def test_an_abort_lets_the_isolated_primary_back(shared_lab: Lab, cloud: Cloud) -> None:
    """The run parks between fence and choice, as the DNS server died, and is aborted: the old primary serves again."""
    plan = {"activity": "disconnect_standbys", "when": "after", "strike": "pid", "node": "knot-eu"}
    async with striking_scene(shared_lab, **plan) as (scene, done):
        isolation = instance_of_home(scene.lab, cloud)
        declare(scene.lab, isolation=isolation, stop=["false"])
        await scene.traffic()
        run = await scene.start("undo-isolation")
        await scene.approve(run)
        await scene.state_when(run, "the run parks at the choice", lambda each: each.parked, 90)
        assert done.exists()

        async def stopped() -> bool:
            return state_of(cloud, isolation["instance_id"]) == "stopped"

        await scene.until("EC2 says that it is stopped", stopped)
        await fault(scene.lab, "start", "knot-eu")
        await scene.say(run, "abort")
        report = await scene.report(run, 120)
        assert report.outcome == "aborted", report
        assert state_of(cloud, isolation["instance_id"]) == "running"
        roles = {node.name: node.role for node in (await labs.status(scene.lab)).nodes if node.kind == "postgresql"}
        assert [name for name, role in roles.items() if role == "primary"] == [HOME], roles
        await scene.safe()
