"""How a member's server is started, stopped and kept from starting, and how it is cut off: one kind a transport."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, PositiveFloat, Tag, model_validator

from schemas.base import Declared, SecretRef, Url

Argv = Annotated[list[str], Field(min_length=1)]
"""An argument vector, never a shell line."""

DEFAULT_KIND = "command"


class Control(Declared):
    """The commands of node control. Each must return 0 once its effect is complete, and may be given twice.

    `kill` is a harder stop (SIGKILL of the postmaster's whole tree), for when `stop` fails or hangs.
    """

    start: Argv
    stop: Argv
    kill: Argv | None = None
    autostart_on: Argv | None = None
    autostart_off: Argv | None = None
    timeout_s: PositiveFloat = 10.0
    """Limit of one command."""

    def connecting_s(self) -> float:
        """Seconds that reaching the node may take before a command's own limit begins."""
        return 0.0

    def longest_s(self) -> float:
        """Seconds in which autostart off, stop and kill have ended, one way or another."""
        commands = sum(argv is not None for argv in (self.autostart_off, self.stop, self.kill))
        return commands * (self.timeout_s + self.connecting_s())


class CommandControl(Control):
    """Commands that run where the worker runs: systemctl, pg_ctlcluster, supervisorctl …"""

    kind: Literal["command"] = "command"


class SshControl(Control):
    """Commands that run on the node, over SSH.

    `known_hosts` is a file where the worker runs that already has the node's host key: a key that isn't in it, or is
    another one, is refused, and nothing is sent. `key` is the private key's text, without a passphrase.
    """

    kind: Literal["ssh"] = "ssh"
    host: str
    port: int = Field(default=22, ge=1, le=65535)
    user: str
    key: SecretRef
    known_hosts: str = Field(min_length=1)
    connect_timeout_s: PositiveFloat = 5.0
    """Limit of connecting, host key and login included."""

    def connecting_s(self) -> float:
        return self.connect_timeout_s


class SsmControl(Control):
    """Commands that AWS Systems Manager runs on the node (SendCommand); credentials by AWS's usual chain.

    `timeout_s` runs from sending, so that it includes delivery. `document` takes the parameters `commands` and
    `executionTimeout`, as AWS-RunShellScript does.
    """

    kind: Literal["ssm"] = "ssm"
    instance_id: str = Field(min_length=1)
    region: str
    endpoint: Url | None = None
    document: str = "AWS-RunShellScript"
    timeout_s: PositiveFloat = 20.0


def _kind(value: object) -> object:
    """A topology may leave out the kind of commands that run where the worker runs."""
    return value.get("kind", DEFAULT_KIND) if isinstance(value, dict) else getattr(value, "kind", None)


NodeControl = Annotated[
    Annotated[CommandControl, Tag("command")] | Annotated[SshControl, Tag("ssh")] | Annotated[SsmControl, Tag("ssm")],
    Discriminator(_kind),
]


class NetworkAclIsolation(Declared):
    """The network ACL of the member's subnet is replaced by one that denies everything, both ways.

    ACLs are stateless, so that established connections are cut as well. A security group is not offered: revoking its
    rules doesn't cut established connections (docs/explanation/safety.md). An ACL acts where traffic crosses the
    subnet's border, and on all that is in it: the member needs a subnet of its own.
    """

    kind: Literal["network-acl"] = "network-acl"
    region: str
    endpoint: Url | None = None
    subnet_id: str
    network_acl_id: str
    """The subnet's ACL when all is well, to which the undo returns: never read from AWS, where it may be gone."""
    deny_acl_id: str
    """An ACL without any allow rule, as a new one is; it is looked at before it is used."""
    timeout_s: PositiveFloat = 15.0

    @model_validator(mode="after")
    def _differ(self) -> NetworkAclIsolation:
        if self.network_acl_id == self.deny_acl_id:
            raise ValueError(f"deny_acl_id: {self.deny_acl_id} is the subnet's usual ACL as well; make one that denies")
        return self


class StopInstanceIsolation(Declared):
    """The member's instance is stopped, by EC2's API. It counts once EC2 says `stopped`.

    `hard` skips the operating system's own shutdown, for which a frozen machine would be waited for minutes;
    PostgreSQL then recovers as after a power cut.
    """

    kind: Literal["stop-instance"] = "stop-instance"
    instance_id: str = Field(min_length=1)
    region: str
    endpoint: Url | None = None
    hard: bool = True
    timeout_s: PositiveFloat = 60.0


Isolation = Annotated[NetworkAclIsolation | StopInstanceIsolation, Field(discriminator="kind")]
