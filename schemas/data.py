"""How a member's data folder is looked after when it is brought back: by PostgreSQL's own programs, on its node."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from schemas.base import Declared


class DataFolder(Declared):
    """Where a member's data is, and who may work on it. The commands go the way of the member's `control`.

    `keep` is a folder on the node, outside of `directory`, that outlives a rebuild: the WAL that only this node had is
    kept there, and its own configuration while a rewind or a copy replaces it.
    """

    directory: str = Field(pattern="^/")
    bin: str = Field(pattern="^/")
    """The folder of pg_controldata, pg_waldump, pg_rewind, pg_basebackup and psql."""
    run_as: list[str] = Field(default_factory=list)
    """Words before each command that make it the server's user, for instance `[sudo, -n, -u, postgres]`."""
    keep: str = Field(pattern="^/")
    config_file: str | None = Field(default=None, pattern="^/")
    """postgresql.conf, where it is not in the data folder (Debian has it in /etc)."""
    socket: str | None = Field(default=None, pattern="^/")
    """The folder of the server's Unix socket, by which `superuser` is let in as the server's own user (peer): with it
    the member can be checked for damage."""
    superuser: str = "postgres"
    backup_config: str | None = Field(default=None, pattern="^/")
    """pgBackRest's file on this node, where it is another one than the service's (`backup.repository.config`)."""
    max_rate_kb_s: PositiveInt | None = Field(default=None, ge=32, le=1048576)
    """Limit of a copy of the whole (pg_basebackup's --max-rate), so that it leaves the leader room to serve."""


class RejoinPolicy(Declared):
    """How a former primary comes back after a failover."""

    when: Literal["at-once", "on-approval", "by-hand"] = "at-once"
    """As soon as its node is in reach; once a person approves; or only when a person starts it."""
    wait_s: PositiveFloat = 7 * 86400.0
    """How long a rejoin that a failover started waits for the node."""
