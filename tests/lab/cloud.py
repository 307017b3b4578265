"""AWS for tests: moto's server, whose Systems Manager here carries out what it is sent, as an agent on a node would."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult
from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import Instance
from moto.server import ThreadedMotoServer
from moto.ssm.models import Command, SimpleSystemManagerBackend, ssm_backends
from moto.ssm.responses import SimpleSystemManagerResponse

REGION = "us-east-1"


@dataclass
class Cloud:
    """`executed`, `cancelled`: what Systems Manager was told. `throttled`: how many of its next calls are refused."""

    endpoint: str
    executed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    throttled: dict[str, int] = field(default_factory=dict)
    undelivered: bool = False
    on_stop: Callable[[str], None] = lambda _: None
    """Called with the id of an instance that is stopped: its processes end then."""

    def client(self, service: str) -> Any:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client(service, region_name=REGION, endpoint_url=self.endpoint, **keys)  # type: ignore[call-overload]

    def instance(self) -> str:
        """The id of a new instance that runs."""
        ec2 = self.client("ec2")
        image = ec2.describe_images()["Images"][0]["ImageId"]
        return str(ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"])

    def control(self, instance: str, **more: Any) -> dict[str, Any]:
        """What an SsmControl needs in order to reach this."""
        return {"kind": "ssm", "instance_id": instance, "region": REGION, "endpoint": self.endpoint} | more

    def throttle(self, method: str) -> None:
        if self.throttled.get(method, 0) > 0:
            self.throttled[method] -= 1
            raise JsonRESTError("ThrottlingException", "Rate exceeded")


def _execute(command: Command) -> None:
    """What the agent does with a document of shell commands, for each instance, and what it reports."""
    limit = float(command.parameters["executionTimeout"][0])
    script = "\n".join(command.parameters["commands"])
    for each in command.invocations:
        try:
            done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            each |= {"Status": "TimedOut", "StatusDetails": "ExecutionTimedOut", "ResponseCode": -1}
            continue
        status = "Failed" if done.returncode else "Success"
        each |= {"StandardOutputContent": done.stdout, "StandardErrorContent": done.stderr}
        each |= {"ResponseCode": done.returncode, "StatusDetails": status, "Status": status}


@contextlib.contextmanager
def running_cloud() -> Iterator[Cloud]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    for backends in (ec2_backends, ssm_backends):
        backends.reset()
    host, port = server.get_host_and_port()
    cloud = Cloud(f"http://{host}:{port}")
    agents: list[threading.Thread] = []
    send, look = SimpleSystemManagerBackend.send_command, SimpleSystemManagerBackend.get_command_invocation
    stop = Instance.stop

    def send_command(self: SimpleSystemManagerBackend, **given: Any) -> Command:
        cloud.throttle("send_command")
        wanted = list(given["instance_ids"])
        command = send(self, **given)
        # Without targets moto takes every instance that there is, beside those that were named.
        command.invocations = [each for each in command.invocations if each["InstanceId"] in wanted]
        for each in command.invocations:
            each |= {"Status": "InProgress", "StatusDetails": "InProgress", "ResponseCode": -1}
            if cloud.undelivered:
                each |= {"Status": "TimedOut", "StatusDetails": "Delivery Timed Out"}
        if not cloud.undelivered:
            cloud.executed += command.parameters["commands"]
            agents.append(threading.Thread(target=_execute, args=(command,), daemon=True))
            agents[-1].start()
        return command

    def get_command_invocation(self: SimpleSystemManagerBackend, *args: Any, **given: Any) -> dict[str, Any]:
        cloud.throttle("get_command_invocation")
        return look(self, *args, **given)

    def cancel_command(self: SimpleSystemManagerResponse) -> ActionResult:
        cloud.cancelled.append(self._get_param("CommandId"))
        return ActionResult({})

    def stop_instance(self: Instance) -> Any:
        cloud.on_stop(self.id)
        return stop(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimpleSystemManagerBackend, "send_command", send_command)
        patch.setattr(SimpleSystemManagerBackend, "get_command_invocation", get_command_invocation)
        patch.setattr(SimpleSystemManagerResponse, "cancel_command", cancel_command, raising=False)
        patch.setattr(Instance, "stop", stop_instance)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        try:
            yield cloud
        finally:
            for each in agents:
                each.join(30)
            server.stop()
