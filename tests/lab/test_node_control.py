"""Node control by each transport, on a lab's real server: a real sshd, and moto's Systems Manager with an agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from temporalio.testing import ActivityEnvironment

from activities import epoch as epochs
from activities import isolation, node
from activities.topology import load_topology
from lab import lab as life
from lab import processes
from lab.model import Lab
from lab.observe import until_protected
from schemas.control import NodeControl
from schemas.facts import EpochRecord
from schemas.failures import EpochSuperseded, HostKeyChanged, IsolationFailed, NodeControlFailed
from schemas.orders import EstablishOrder, NodeOrder, NodeResult
from schemas.topology import Member
from tests.lab.cloud import Cloud, running_cloud
from tests.lab.looks import roles
from tests.lab.sshd import Sshd, free_port, make_key, running_sshd

pytestmark = pytest.mark.lab

KINDS = ("command", "ssh", "ssm")
NODE = "pg-east-4"


@pytest.fixture
async def sshd(tmp_path: Path) -> AsyncIterator[Sshd]:
    async with running_sshd(tmp_path) as found:
        yield found


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with running_cloud() as found:
        yield found


@pytest.fixture
async def spare(lab: Lab) -> AsyncIterator[Lab]:
    """The lab, whose NODE a test may stop; it is back and streams when the next one begins."""
    try:
        yield lab
    finally:
        lab.paths.autostart_mark(NODE).unlink(missing_ok=True)
        await life.fault(lab, "thaw", NODE)
        await life.fault(lab, "start", NODE)
        await until_protected(lab)


def commands(lab: Lab, **more: Any) -> dict[str, Any]:
    """The lab's own node control, whatever brings it to the node."""
    names = {"start": "start", "stop": "stop", "autostart_on": "autostart-on", "autostart_off": "autostart-off"}
    return {field: [str(lab.paths.control), verb, NODE] for field, verb in names.items()} | more


def killing(lab: Lab, **more: Any) -> dict[str, Any]:
    return commands(lab, stop=["false"], kill=[str(lab.paths.control), "kill", NODE], **more)


def order_of(lab: Lab, control: dict[str, Any] | None, **changed: Any) -> NodeOrder:
    service = load_topology(lab.topology).service(lab.service)
    declared = TypeAdapter(NodeControl).validate_python(control) if control else None
    fields = (
        service.member(NODE).model_dump(mode="json")
        | {"control": declared}
        | ({} if control else {"data": None})
        | changed
    )
    members = [Member.model_validate(fields) if each.name == NODE else each for each in service.members]
    return NodeOrder(service=service.model_copy(update={"members": members}), member=NODE)


async def run(activity: Any, order: NodeOrder, limit: float = 60.0) -> NodeResult:
    async with asyncio.timeout(limit):
        result: NodeResult = await ActivityEnvironment().run(activity, order)
    return result


def reached_by(kind: str, sshd: Sshd, cloud: Cloud) -> dict[str, Any]:
    return {"command": {"kind": "command"}, "ssh": sshd.control(), "ssm": cloud.control(cloud.instance())}[kind]


class TestEachTransport:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_everything_twice(self, spare: Lab, sshd: Sshd, cloud: Cloud, kind: str) -> None:
        there, by = reached_by(kind, sshd, cloud), {"command": "command", "ssh": "SSH", "ssm": "SSM"}[kind]
        order = order_of(spare, commands(spare, **there))
        for _ in range(2):
            stopped = await run(node.stop_node, order)
            assert stopped.done, stopped
            assert f"stopped by {by}" in stopped.evidence
            assert processes.trees(spare.paths, [NODE]) == []
            assert spare.paths.autostart_mark(NODE).exists()
        for _ in range(2):
            assert (await run(node.start_node, order)).done
            assert (await roles(spare))[NODE] == "standby"
            assert not spare.paths.autostart_mark(NODE).exists()
        for _ in range(2):
            killed = await run(node.stop_node, order_of(spare, killing(spare, **there)))
            assert killed.done, killed
            assert f"killed by {by} (false … exited 1" in killed.evidence
            assert processes.trees(spare.paths, [NODE]) == []

    @pytest.mark.parametrize("kind", KINDS)
    async def test_arguments_arrive_as_they_are(
        self, lab: Lab, sshd: Sshd, cloud: Cloud, tmp_path: Path, kind: str
    ) -> None:
        given = ["a b", "$HOME", "it's", '"', "; exit 7", "", "ü"]
        argv = ["sh", "-c", 'printf "%s\\n" "$@" >"$0"; echo told >&2; exit 3', str(tmp_path / "seen"), *given]
        control = TypeAdapter(NodeControl).validate_python(commands(lab, **reached_by(kind, sshd, cloud)))
        assert await ActivityEnvironment().run(node.run_on, control, argv) == (3, "told")
        assert (tmp_path / "seen").read_text(encoding="utf-8").splitlines() == given

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_stop_that_never_ends_is_given_up_and_the_server_killed(
        self, spare: Lab, sshd: Sshd, cloud: Cloud, tmp_path: Path, kind: str
    ) -> None:
        endless = ["sh", "-c", 'echo $$ >"$0"; exec sleep 60', str(tmp_path / "pid")]
        there = reached_by(kind, sshd, cloud) | {"timeout_s": 3.0}
        try:
            stopped = await run(node.stop_node, order_of(spare, killing(spare, **there) | {"stop": endless}))
        finally:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((tmp_path / "pid").read_text(encoding="ascii")), signal.SIGKILL)
        assert stopped.done, stopped
        assert "killed by" in stopped.evidence
        assert "exited 124: no end within 3 s" in stopped.evidence

    @pytest.mark.parametrize("kind", KINDS)
    async def test_an_older_epoch_is_refused_before_anything_is_told(
        self, lab: Lab, sshd: Sshd, cloud: Cloud, tmp_path: Path, kind: str
    ) -> None:
        touch = ["touch", str(tmp_path / "told")]
        control = {name: touch for name in ("start", "stop", "kill", "autostart_on", "autostart_off")}
        order = await superseded(lab, order_of(lab, control | reached_by(kind, sshd, cloud)), kind)
        for activity in (node.stop_node, node.start_node):
            with pytest.raises(EpochSuperseded):
                await run(activity, order)
        assert not (tmp_path / "told").exists()
        assert cloud.executed == []
        # The same order of the run that holds the epoch is obeyed: what was refused was its age.
        assert not (await run(node.stop_node, order.model_copy(update={"run": "newer"}))).done
        assert (tmp_path / "told").exists()

    @pytest.mark.parametrize("kind", KINDS)
    async def test_stopped_but_not_kept_from_starting_is_not_stopped(
        self, spare: Lab, sshd: Sshd, cloud: Cloud, kind: str
    ) -> None:
        control = commands(spare, **reached_by(kind, sshd, cloud)) | {"autostart_off": ["false"]}
        stopped = await run(node.stop_node, order_of(spare, control))
        assert not stopped.done
        assert "may start by itself" in stopped.evidence
        assert processes.trees(spare.paths, [NODE]) == []


async def superseded(lab: Lab, order: NodeOrder, kind: str) -> NodeOrder:
    """The order of a run whose epoch has passed to another one; the record is that of a service of its own."""
    zone = load_topology(lab.topology).zone
    service = order.service.model_copy(update={"name": f"epoch-of-{kind}"})
    first = EpochRecord(epoch=5, run="newer", leader="pg-east-1", w=0, voters=[])
    await ActivityEnvironment().run(epochs.establish_epoch, EstablishOrder(service=service, zone=zone, first=first))
    return order.model_copy(update={"service": service, "zone": zone, "run": "older", "epoch": 4})


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A port that takes connections and never answers; and whether one of them has ended."""
    ended = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read(-1)
        writer.close()
        ended.set()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], ended
    finally:
        server.close()


class TestSsh:
    def touching(self, lab: Lab, sshd: Sshd, **more: Any) -> NodeOrder:
        touch = ["touch", str(sshd.folder / "told")]
        return order_of(
            lab, sshd.control(start=touch, stop=touch, kill=touch, autostart_on=touch, autostart_off=touch) | more
        )

    @pytest.mark.parametrize("known", ["another", None], ids=["another key is known", "no key is known"])
    async def test_a_host_that_is_not_known_is_told_nothing(self, lab: Lab, sshd: Sshd, known: str | None) -> None:
        if known is None:
            (sshd.folder / "known_hosts").write_text("", encoding="utf-8")
        else:
            make_key(sshd.folder, known)
            sshd.know(known)
        for activity in (node.stop_node, node.start_node):
            with pytest.raises(HostKeyChanged, match=r"node's owner\s+must find out") as refused:
                await run(activity, self.touching(lab, sshd))
            assert not refused.value.retryable
            assert str(sshd.folder / "known_hosts") in str(refused.value)
        assert not (sshd.folder / "told").exists()
        # The check bites: with its own key the same order is obeyed.
        sshd.know("host")
        await run(node.stop_node, self.touching(lab, sshd))
        assert (sshd.folder / "told").exists()

    async def test_without_a_file_of_known_hosts_nobody_is_trusted(self, lab: Lab, sshd: Sshd) -> None:
        (sshd.folder / "known_hosts").unlink()
        with pytest.raises(NodeControlFailed, match="known_hosts"):
            await run(node.stop_node, self.touching(lab, sshd))
        assert not (sshd.folder / "told").exists()

    async def test_a_server_that_never_answers_is_left_at_the_limit(self, lab: Lab, sshd: Sshd) -> None:
        async with silent_server() as (port, ended):
            order = self.touching(lab, sshd, port=port, connect_timeout_s=0.3)
            with pytest.raises(NodeControlFailed, match=r"no login within 0\.3 s"):
                await run(node.stop_node, order, 20)
            async with asyncio.timeout(10):
                await ended.wait()

    async def test_another_users_key_is_refused(self, lab: Lab, sshd: Sshd) -> None:
        make_key(sshd.folder, "stranger")
        with pytest.raises(NodeControlFailed, match="the key is refused"):
            await run(node.stop_node, self.touching(lab, sshd, key=f"file:{sshd.folder / 'stranger'}"))
        assert not (sshd.folder / "told").exists()

    async def test_a_key_that_is_none_is_never_repeated(self, lab: Lab, sshd: Sshd) -> None:
        (sshd.folder / "user").write_text("-----BEGIN s3cr3t", encoding="utf-8")
        with pytest.raises(Exception, match="holds no private key") as failed:
            await run(node.stop_node, self.touching(lab, sshd))
        assert "s3cr3t" not in str(failed.value)


class TestSsm:
    async def test_throttling_is_waited_out_and_nothing_is_sent_twice(self, spare: Lab, cloud: Cloud) -> None:
        cloud.throttled = {"send_command": 2, "get_command_invocation": 3}
        stopped = await run(node.stop_node, order_of(spare, commands(spare, **cloud.control(cloud.instance()))))
        assert stopped.done, stopped
        assert [line.split()[1] for line in cloud.executed] == ["autostart-off", "stop"]
        assert set(cloud.throttled.values()) == {0}

    async def test_a_command_that_is_never_delivered_fails(self, lab: Lab, cloud: Cloud) -> None:
        cloud.undelivered = True
        with pytest.raises(NodeControlFailed, match="Delivery Timed Out"):
            await run(node.stop_node, order_of(lab, commands(lab, **cloud.control(cloud.instance()))))
        assert (await roles(lab))[NODE] == "standby"

    async def test_throttled_to_the_limit_nothing_is_claimed(self, lab: Lab, cloud: Cloud) -> None:
        cloud.throttled = {"send_command": 1000}
        control = cloud.control(cloud.instance(), timeout_s=0.5)
        stopped = await run(node.stop_node, order_of(lab, commands(lab, **control)), 30)
        assert not stopped.done
        assert "not sent within 0.5 s" in stopped.evidence
        assert cloud.executed == []

    async def test_what_has_not_ended_at_the_limit_is_cancelled(self, lab: Lab, cloud: Cloud) -> None:
        # AWS's own limit is whole seconds, so that ours, which is asked for here, is over first.
        control = cloud.control(cloud.instance(), timeout_s=1.2, start=["true"], stop=["sleep", "2"])
        stopped = await run(node.stop_node, order_of(lab, control), 30)
        assert "exited 124: no end within 1.2 s" in stopped.evidence
        assert len(cloud.cancelled) == 1

    async def test_without_aws_it_fails_within_its_limits(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        control = {"kind": "ssm", "instance_id": "i-1", "region": "us-east-1"}
        nowhere = {"endpoint": f"http://127.0.0.1:{free_port()}"}
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        with pytest.raises(NodeControlFailed, match="Could not connect"):
            await run(node.stop_node, order_of(lab, commands(lab, **control, **nowhere)))


@pytest.fixture
def acls(cloud: Cloud) -> dict[str, Any]:
    """A subnet of a network of its own, with its usual ACL, and one without rules."""
    ec2 = cloud.client("ec2")
    network = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=network, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    found = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [subnet]}])
    return {
        "kind": "network-acl",
        "region": "us-east-1",
        "endpoint": cloud.endpoint,
        "subnet_id": subnet,
        "network_acl_id": found["NetworkAcls"][0]["NetworkAclId"],
        "deny_acl_id": ec2.create_network_acl(VpcId=network)["NetworkAcl"]["NetworkAclId"],
    }


def acl_of(cloud: Cloud, subnet: str) -> str:
    found = cloud.client("ec2").describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [subnet]}])
    (acl,) = found["NetworkAcls"]
    return str(acl["NetworkAclId"])


class TestIsolation:
    """moto cuts nothing off: the port is one that is closed anyway, but where it is said to be open."""

    def order(self, lab: Lab, declared: dict[str, Any], **more: Any) -> NodeOrder:
        return order_of(lab, None, isolation=declared, **({"port": free_port()} | more))

    async def test_by_network_acl_twice_and_back_twice(self, lab: Lab, cloud: Cloud, acls: dict[str, Any]) -> None:
        order = self.order(lab, acls)
        for _ in range(2):
            cut = await run(isolation.isolate_member, order)
            assert cut.done, cut
            assert acls["deny_acl_id"] in cut.evidence
            assert acl_of(cloud, acls["subnet_id"]) == acls["deny_acl_id"]
        for _ in range(2):
            assert (await run(isolation.rejoin_network, order)).done
            assert acl_of(cloud, acls["subnet_id"]) == acls["network_acl_id"]

    async def test_an_acl_that_allows_anything_is_not_used(self, lab: Lab, cloud: Cloud, acls: dict[str, Any]) -> None:
        cloud.client("ec2").create_network_acl_entry(
            NetworkAclId=acls["deny_acl_id"],
            RuleNumber=100,
            Protocol="-1",
            RuleAction="allow",
            Egress=False,
            CidrBlock="10.0.0.0/8",
        )
        with pytest.raises(IsolationFailed, match="1 rules that allow"):
            await run(isolation.isolate_member, self.order(lab, acls))
        assert acl_of(cloud, acls["subnet_id"]) == acls["network_acl_id"]

    async def test_an_acl_of_somebody_elses_is_left(self, lab: Lab, cloud: Cloud, acls: dict[str, Any]) -> None:
        declared = acls | {"network_acl_id": "acl-of-ours"}
        with pytest.raises(IsolationFailed, match="neither of ours"):
            await run(isolation.rejoin_network, self.order(lab, declared))
        assert acl_of(cloud, acls["subnet_id"]) == acls["network_acl_id"]

    async def test_by_stopping_the_instance_twice_and_back_twice(self, lab: Lab, cloud: Cloud) -> None:
        instance = cloud.instance()
        order = self.order(lab, instance_of(cloud, instance))

        def state() -> str:
            found = cloud.client("ec2").describe_instances(InstanceIds=[instance])
            return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])

        for _ in range(2):
            assert (await run(isolation.isolate_member, order)).done
            assert state() == "stopped"
        for _ in range(2):
            assert (await run(isolation.rejoin_network, order)).done
            assert state() == "running"

    async def test_a_port_that_stays_open_is_not_isolated(
        self, lab: Lab, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """AWS says that it is stopped; the server, which answers, knows better."""
        monkeypatch.setattr(isolation, "CLOSED_S", 0.2)
        port = lab.node(NODE).port
        order = self.order(lab, instance_of(cloud, cloud.instance()), port=port)
        cut = await run(isolation.isolate_member, order)
        assert not cut.done
        assert f"{port} is open" in cut.evidence

    async def test_an_instance_that_is_unknown_is_an_error(self, lab: Lab, cloud: Cloud) -> None:
        with pytest.raises(IsolationFailed, match=r"InvalidInstanceID\.NotFound"):
            await run(isolation.isolate_member, self.order(lab, instance_of(cloud, "i-0123456789abcdef0")))

    async def test_an_older_epoch_is_refused(self, lab: Lab, cloud: Cloud, acls: dict[str, Any]) -> None:
        order = await superseded(lab, self.order(lab, acls), "isolation")
        for activity in (isolation.isolate_member, isolation.rejoin_network):
            with pytest.raises(EpochSuperseded):
                await run(activity, order)
        assert acl_of(cloud, acls["subnet_id"]) == acls["network_acl_id"]


def instance_of(cloud: Cloud, instance: str) -> dict[str, Any]:
    declared = {"kind": "stop-instance", "instance_id": instance, "region": "us-east-1", "endpoint": cloud.endpoint}
    return declared | {"timeout_s": 10.0}
