"""Connections to Redis servers and Sentinels, and the connection as a fencing token (docs/adr/0034).

Redis has no place for an epoch that a command could be bound to. So whoever acts opens a connection, names it after
its epoch, and only then reads the service's record: if that is of a later epoch, nothing is sent. A later epoch's
first act on a server ends the connections that are named after older ones. Whichever came first, an older epoch's
command finds either the newer record or its connection gone, and a worker that thaws sends it into a closed socket.
The same holds of one activity's attempts, by its number within the epoch.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from temporalio import activity

from activities import epoch as epochs
from activities.secrets import resolve
from schemas.cache import CacheService, Sentinel
from schemas.cache_orders import CacheOrder
from schemas.failures import CacheUnreachable, EpochSuperseded
from schemas.service import Place

if TYPE_CHECKING:
    from redis.asyncio.connection import Connection

LIMIT_S = 1.5
"""Limit of one command and of a connection's beginning."""
PREFIX = "lifeboat-epoch-"


class ErrorReply(Exception):
    """The server answered with an error: its text begins with a word such as NOREPLICAS or READONLY."""


class Token(NamedTuple):
    """What a connection that acts is named after."""

    epoch: int
    activity: str = "-"
    attempt: int = 0

    @classmethod
    def of(cls, epoch: int) -> Self:
        """That of the activity which runs here."""
        info = activity.info()
        return cls(epoch, "".join(c for c in info.activity_id if c.isalnum()) or "-", info.attempt)

    @classmethod
    def read(cls, name: str) -> Self | None:
        parts = name.removeprefix(PREFIX).split("/")
        if not name.startswith(PREFIX) or len(parts) != 3 or not (parts[0].isdigit() and parts[2].isdigit()):
            return None
        return cls(int(parts[0]), parts[1], int(parts[2]))

    def name(self) -> str:
        return f"{PREFIX}{self.epoch}/{self.activity}/{self.attempt}"

    def is_older_than(self, other: Token) -> bool:
        same = (self.epoch, self.activity) == (other.epoch, other.activity)
        return self.epoch < other.epoch or (same and self.attempt < other.attempt)


class Talk:
    """One connection. It is never made again behind our back: a command after its end is refused."""

    def __init__(self, name: str, connection: Connection, limit: float) -> None:
        self.name, self._connection, self._limit = name, connection, limit

    async def __call__(self, *command: str | int | float, limit: float | None = None) -> Any:
        """The answer, decoded; ErrorReply for an error, CacheUnreachable when there is no answer in time."""
        from redis.exceptions import RedisError, ResponseError

        if not self._connection.is_connected:
            raise CacheUnreachable(f"{self.name}: the connection was ended")
        try:
            await self._connection.send_command(*command, check_health=False)
            if limit is not None:
                self._connection.socket_timeout = limit
            return await self._connection.read_response()
        except ResponseError as error:
            raise ErrorReply(str(error)) from error
        except (RedisError, OSError, TimeoutError) as error:
            raise CacheUnreachable(f"{self.name}: {_words(error)}") from error
        finally:
            self._connection.socket_timeout = self._limit

    async def info(self, *sections: str) -> dict[str, str]:
        """INFO's fields. Several sections at once are of Redis 7."""
        text = str(await self("INFO", *sections))
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))

    async def config(self, *names: str) -> dict[str, str]:
        """Settings by name."""
        found = await self("CONFIG", "GET", *names)
        return dict(zip(found[::2], found[1::2], strict=True))


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


@contextlib.asynccontextmanager
async def talk(
    place: Place, user: str | None, password: str | None, *, tls: str | bool = False, limit: float = LIMIT_S
) -> AsyncIterator[Talk]:
    """A connection, authenticated; CacheUnreachable within `limit` seconds. `tls`: True, or the authority's file."""
    # A fifth of a second, which every worker would pay at its start, whatever it works on.
    from redis.asyncio.connection import Connection, SSLConnection
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError

    given: dict[str, Any] = {
        "host": place.host,
        "port": place.port,
        "username": user,
        "password": password,
        "socket_timeout": limit,
        "socket_connect_timeout": limit,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
        "encoding_errors": "surrogateescape",
        "protocol": 2,
        "driver_info": None,
    }
    made = SSLConnection(**given, ssl_ca_certs=tls if isinstance(tls, str) else None) if tls else Connection(**given)
    try:
        await made.connect()  # type: ignore[no-untyped-call]
    except (RedisError, OSError, TimeoutError) as error:
        await made.disconnect(nowait=True)
        raise CacheUnreachable(f"{place.name} at {place.host}:{place.port}: {_words(error)}") from error
    try:
        yield Talk(place.name, made, limit)
    except ErrorReply as error:
        raise CacheUnreachable(f"{place.name} refuses: {error}") from error
    finally:
        await made.disconnect(nowait=True)


def _tls(service: CacheService) -> str | bool:
    return (service.access.tls_ca or True) if service.access.tls else False


def to_member(
    service: CacheService, name: str, *, limit: float = LIMIT_S
) -> contextlib.AbstractAsyncContextManager[Talk]:
    """A connection to the member called `name`."""
    access = service.access
    return talk(service.member(name), access.user, resolve(access.password), tls=_tls(service), limit=limit)


def to_sentinel(
    service: CacheService, sentinel: Sentinel, *, limit: float = LIMIT_S
) -> contextlib.AbstractAsyncContextManager[Talk]:
    access = service.access
    return talk(sentinel, access.sentinel_user, resolve(access.sentinel_password), tls=_tls(service), limit=limit)


@contextlib.asynccontextmanager
async def acting(order: CacheOrder, place: Place) -> AsyncIterator[Talk]:
    """A connection that may change something within the order's epoch; EpochSuperseded once a later one is recorded."""
    service = order.service
    sentinel = isinstance(place, Sentinel)
    opened = to_sentinel(service, place) if isinstance(place, Sentinel) else to_member(service, place.name)
    async with opened as asked:
        token = Token.of(order.epoch)
        await asked("CLIENT", "SETNAME", token.name())
        await still_ours(order)
        await _end_older(asked, token, "Sentinel" if sentinel else "server")
        yield asked


async def still_ours(order: CacheOrder) -> None:
    """EpochSuperseded when the record is of a later epoch. Nothing is read where a person went on without it."""
    if not order.recorded:
        return
    held = await epochs.read(order.zone, order.service.name)
    if held is not None and held.epoch > order.epoch:
        raise EpochSuperseded(f"epoch {held.epoch} is held by {held.run}")


async def _end_older(asked: Talk, ours: Token, what: str) -> None:
    for line in str(await asked("CLIENT", "LIST")).splitlines():
        fields = fields_of(line)
        other = Token.read(fields.get("name", ""))
        if other is None:
            continue
        if other.epoch > ours.epoch:
            raise EpochSuperseded(f"epoch {other.epoch} acts on the {what} {asked.name}")
        if other.is_older_than(ours):
            with contextlib.suppress(ErrorReply):  # it has ended meanwhile
                await asked("CLIENT", "KILL", "ID", fields["id"])


def fields_of(line: str) -> Mapping[str, str]:
    """`a=1 b=2` of CLIENT LIST, or `a=1,b=2` of INFO's replicas."""
    return dict(part.split("=", 1) for part in line.replace(",", " ").split() if "=" in part)


async def keep_settings(asked: Talk) -> None:
    """CONFIG REWRITE: what was set or ordered outlives a restart. A server without a file keeps nothing anyway."""
    try:
        await asked("CONFIG", "REWRITE")
    except ErrorReply as error:
        if "without a config file" not in str(error):
            raise
