"""Counts into the cache: writers that set keys along a route, again and again, and note each outcome in the ledger."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

from lab import resp, writer
from lab.ledger import Entry, Ledger
from lab.resp import Failure
from lab.wire import Lost, NotConnected
from lab.writer import CONNECT_S, RETRIES, WRITE_S, inside, is_address, resolve

WAITED_ON = 2
"""Replicas that a write of the route with WAIT is awaited on. One may be the follower in the other region, which is
never elected, so that 1 would promise nothing of those that are."""
WAIT_MS = 1000
"""Less than a write's own limit: a server that says "not enough" has answered."""
SWITCHED = "+switch-master"


class Route(NamedTuple):
    """One way to the master. By name, or `sentinels` are asked; `waits`: each write is awaited on replicas."""

    user: str
    password: str
    host: str = ""
    port: int = 0
    sentinels: tuple[tuple[str, int], ...] = ()
    monitored: str = ""
    waits: bool = False

    @classmethod
    def from_dsn(cls, dsn: str) -> Self:
        """Of the DSNs of lab/routing.py."""
        parts = urlsplit(dsn)
        login, _, places = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        found = tuple((each.partition(":")[0], int(each.partition(":")[2])) for each in places.split(","))
        if parts.scheme == "redis+sentinel":
            return cls(user, unquote(password), sentinels=found, monitored=parts.path.strip("/"))
        return cls(user, unquote(password), *found[0], waits="wait" in parse_qs(parts.query))


@dataclass(frozen=True)
class Traffic:
    """What runs: `routes` by name, each about `rate` writes a second in all; the rest as of the database's traffic.

    `sentinel_password` is that of the clients' user on Sentinels.
    """

    routes: dict[str, Route]
    addresses: frozenset[str]
    dns_server: str
    sentinel_password: str
    rate: float = 25.0


class Master(NamedTuple):
    """A session with a server that says it is the master, and what history it then writes."""

    session: resp.Session
    address: str
    replid: str
    parent: str
    """The history that this one began from; empty for none."""


async def find(route: Route, traffic: Traffic) -> tuple[str, int]:
    """Where the route leads just now; NotConnected."""
    if not route.sentinels:
        host = route.host if is_address(route.host) else await resolve(traffic.dns_server, route.host)
        return host, route.port
    said = []
    for host, port in random.sample(route.sentinels, len(route.sentinels)):
        try:
            inside(f"{host}:{port}", traffic.addresses)
            session = await resp.Session.open(host, port, route.user, traffic.sentinel_password, limit=CONNECT_S)
            try:
                question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", route.monitored)
                (answer,) = await session.ask(question, limit=CONNECT_S)
            finally:
                session.close()
        except (NotConnected, Lost) as error:
            said.append(str(error))
            continue
        if isinstance(answer, list) and len(answer) == 2:
            return str(answer[0]), int(str(answer[1]))
        said.append(f"{host}:{port} knows no {route.monitored}")
    raise NotConnected("; ".join(said))


async def connect(route: Route, traffic: Traffic) -> Master:
    """A session with the master along a route; NotConnected, also where the route leads to another than a master."""
    host, port = await find(route, traffic)
    inside(f"{host}:{port}", traffic.addresses)
    session = await resp.Session.open(host, port, route.user, route.password, limit=CONNECT_S)
    try:
        (answer,) = await session.ask(("INFO", "replication"), limit=CONNECT_S)
    except Lost as error:
        raise NotConnected(f"{host}:{port}: {error}") from error
    told = resp.info(answer)
    if told.get("role") != "master":
        session.close()
        said = answer.text if isinstance(answer, Failure) else f"its role is {told.get('role')}"
        raise NotConnected(f"{host}:{port} is no master: {said}")
    return Master(session, f"{host}:{port}", told["master_replid"], told["master_replid2"].strip("0"))


@dataclass
class Writer(writer.Writer):
    """A client of the cache, which looks for the master again after every error."""

    way: Route
    traffic: Traffic
    master: Master | None = field(default=None, init=False)

    async def write(self, entry: Entry) -> bool:
        if self.master is not None and self.master.session.closed:
            self.close()
        try:
            if self.master is None:
                self.master = await connect(self.way, self.traffic)
        except NotConnected as error:
            self.note_failure(entry, str(error))
            return False
        master = self.master
        commands: list[Sequence[str]] = [("SET", f"count:{entry.id}", str(random.randrange(100)))]
        if self.way.waits:
            commands.append(("WAIT", str(WAITED_ON), str(WAIT_MS)))
        sent = time.time()
        entry = entry.model_copy(
            update={"sent": sent, "server": master.address, "replid": master.replid, "parent": master.parent}
        )
        try:
            answers = await master.session.ask(*commands, limit=WRITE_S)
        except Lost as error:
            self.close()
            self.ledger.record(entry.model_copy(update={"outcome": "unknown", "error": str(error)}))
            return False
        if isinstance(answers[0], Failure):
            self.close()
            self.note_failure(entry, answers[0].text)
            return False
        return self._acknowledged(entry, *answers[1:])

    def _acknowledged(self, entry: Entry, on: resp.Reply = None) -> bool:
        """Note the answer. With WAIT it is no acknowledgement until replicas have it: the write is on one server."""
        told: dict[str, object] = {"acked": time.time(), "outcome": "acknowledged"}
        if self.way.waits:
            if isinstance(on, int) and on >= WAITED_ON:
                told["waited"] = True
            else:
                said = on.text if isinstance(on, Failure) else f"{on} of {WAITED_ON} replicas"
                told |= {"outcome": "unknown", "error": f"WAIT: {said}"}
        self.ledger.record(entry.model_copy(update=told))
        return told["outcome"] == "acknowledged"

    def close(self) -> None:
        if self.master is not None:
            self.master.session.close()
            self.master = None

    async def run(self) -> None:
        """Write until `stop` is set; a client of Sentinels listens to them as well."""
        if not self.way.sentinels:
            await super().run()
            return
        listening = [asyncio.create_task(self._listen(*each)) for each in self.way.sentinels]
        try:
            await super().run()
        finally:
            for each in listening:
                each.cancel()
            await asyncio.gather(*listening, return_exceptions=True)

    async def _listen(self, host: str, port: int) -> None:
        """Leave the server at once when a Sentinel says that another is the master."""
        while True:
            try:
                inside(f"{host}:{port}", self.traffic.addresses)
                session = await resp.Session.open(
                    host, port, self.way.user, self.traffic.sentinel_password, limit=CONNECT_S
                )
            except NotConnected:
                await asyncio.sleep(writer.SAME_ERROR_S)
                continue
            try:
                await session.ask(("SUBSCRIBE", SWITCHED), limit=CONNECT_S)
                while True:
                    self._switched(await session.pushed())
            except Lost:
                continue
            finally:
                session.close()

    def _switched(self, message: resp.Reply) -> None:
        """Act on `+switch-master <name> <old ip> <old port> <new ip> <new port>`."""
        if not isinstance(message, list) or self.master is None:
            return
        words = str(message[-1]).split()
        if len(words) == 5 and words[0] == self.way.monitored and f"{words[3]}:{words[4]}" != self.master.address:
            # Closed here, its writer finds out by itself, whether or not it waits for an answer.
            self.master.session.close()


def writers(
    traffic: Traffic, ledger: Ledger, stop: asyncio.Event, on_first: Callable[[str], None]
) -> list[writer.Writer]:
    """The clients of every route."""
    return [
        Writer(f"{name}-{number}", name, ledger, stop, on_first, traffic.rate, retry, route, traffic)
        for name, route in traffic.routes.items()
        for number, retry in enumerate(RETRIES, start=1)
    ]
