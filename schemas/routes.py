"""The ways by which clients reach whoever leads."""

from __future__ import annotations

import string
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, StringConstraints

from schemas.base import Declared, Name, SecretRef

PLACEHOLDERS = ("host", "port", "member", "service", "epoch")


def _can_be_filled(text: str) -> str:
    template = string.Template(text)
    known = ", ".join(f"${{{name}}}" for name in PLACEHOLDERS)
    if not template.is_valid():
        raise ValueError(f"a `$` stands alone in it; write `$$` for a dollar, or one of {known}")
    for name in template.get_identifiers():
        if name not in PLACEHOLDERS:
            raise ValueError(f"`${{{name}}}` is not known; one of {known}, and `$$` for a dollar")
    return text


Filled = Annotated[str, AfterValidator(_can_be_filled)]
"""Text in which `${host}`, `${port}` … stand for those of the leader."""
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]+$")]
"""A name in HAProxy's configuration."""


class DnsRoute(Declared):
    """A name in the estate's zone that clients resolve to the leader's address."""

    kind: Literal["dns"] = "dns"
    name: Name
    record: str
    """Fully qualified name, for instance `counting-db.example.com`."""
    port: int = Field(ge=1, le=65535)
    ttl_s: int = Field(default=5, ge=0)


class PgBouncerRoute(Declared):
    """A PgBouncer whose `databases_file` (its `%include`) Lifeboat rewrites and reloads."""

    kind: Literal["pgbouncer"] = "pgbouncer"
    name: Name
    host: str
    port: int = Field(ge=1, le=65535)
    region: Name
    admin_user: str = "lifeboat"
    admin_password: SecretRef | None = None
    databases: dict[str, str]
    """Name that clients use → options after host and port, for instance `{"counting": "dbname=counting"}`."""
    databases_file: str


class HAProxyRoute(Declared):
    """A HAProxy backend whose servers Lifeboat lets in or keeps out through the runtime API, at `level admin`.

    `socket` is where that API listens: `host:port`, or the absolute path of a Unix socket on the hosts of the region's
    workers. `servers` says which member each of the backend's servers stands for. A restarted HAProxy knows only its
    files: with `state_file`, which the backend loads (`load-server-state-from-file local`) and the region's workers
    can write, it still knows who leads.
    """

    kind: Literal["haproxy"] = "haproxy"
    name: Name
    host: str
    port: int = Field(ge=1, le=65535)
    region: Name
    socket: str = Field(pattern=r"^(/.+|[^/]+:\d+)$")
    backend: Word
    servers: dict[Name, Word] = Field(min_length=1)
    """Member → the name of its server in the backend, for instance `{"pg-east-1": "pg-east-1"}`."""
    database: str | None = None
    """The database that clients name; the service's own when it is not said."""
    state_file: str | None = Field(default=None, pattern="^/")


class FileRoute(Declared):
    """A file of an application's configuration, on the hosts of the region's workers, and how it is taken up.

    `template` is the file's text; in it, and in the commands, `${host}`, `${port}`, `${member}`, `${service}` and
    `${epoch}` stand for those of the leader (`$$` for a dollar). `reload` makes the application read it; `confirm`
    exits 0 once the application uses it.
    """

    kind: Literal["file"] = "file"
    name: Name
    region: Name
    path: str = Field(pattern="^/")
    template: Filled = "DATABASE_HOST=${host}\nDATABASE_PORT=${port}\n"
    reload: list[Filled] = Field(min_length=1)
    confirm: list[Filled] | None = Field(default=None, min_length=1)
    timeout_s: PositiveFloat = 10.0


class WebhookRoute(Declared):
    """An application that is told who leads by a POST of JSON, signed where there is a secret.

    It answers 2xx once it uses the new leader, and 409 to an epoch older than one that it knows. With `confirm_url`,
    a GET there gives `{"epoch": …, "leader": …}`, and it counts only once these are the new ones.
    """

    kind: Literal["webhook"] = "webhook"
    name: Name
    url: str = Field(pattern=r"^https?://")
    confirm_url: str | None = Field(default=None, pattern=r"^https?://")
    secret: SecretRef | None = None
    timeout_s: PositiveFloat = 5.0


Route = Annotated[
    DnsRoute | PgBouncerRoute | HAProxyRoute | FileRoute | WebhookRoute,
    Field(discriminator="kind"),
]
Gate = PgBouncerRoute | HAProxyRoute
"""What stands between clients and servers, so that it can hold clients, and cut their sessions."""
Told = FileRoute | WebhookRoute
"""An application's own configuration: it is told who leads, once somebody does."""
