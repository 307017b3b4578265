"""The referee of the queue: it trusts nothing that the product says, reads ledger, deliveries and queues by itself.

Lost messages by id, duplicates, order, how long no publish was confirmed on each route, and which clusters let clients
in beside the one that leads.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from lab import findings, ledger, load, rabbit
from lab.findings import Conviction
from lab.model import Lab, Node
from lab.queue_findings import judge, overlapping
from lab.queue_traffic import BROKEN, deliveries_of, leave, read_deliveries
from lab.referee import SAMPLE, Audit, Seen, writers_of
from lab.world import assert_inside

ASK_S = 3.0
PEEK_S = 60.0
FIRST_S = 15.0
"""A quorum queue whose node came back a moment ago with many messages answers nobody while it reads its log."""
_EACH = 2000
QUIET_S = 1.0
"""Nothing has come for this long: the queue has shown all that it holds."""


class QueueAudit(Audit):
    """`out_of_reach`: confirmed messages that may lie in a cluster that can't be read, so that `missing` is None.
    `stranded`: those that lie in a region that does not lead, and were not delivered: nobody consumes there.
    `overlapping`: those that a region confirmed beside another one."""

    delivered: int = 0
    in_queues: int = 0
    duplicated: int = 0
    redelivered: int = 0
    reordered: int = 0
    out_of_reach: int = 0
    stranded: int = 0
    overlapping: int = 0

    @property
    def clean(self) -> bool:
        return super().clean and self.stranded == 0


async def audit(lab: Lab) -> QueueAudit:
    """Audit a lab's queue. LedgerUnreadable when no load ever ran, since then there is nothing to judge."""
    routes = lab.routes_of("queue")
    entries = [entry for entry in ledger.read(lab.ledger) if entry.route in routes]
    spans = ledger.read_spans(lab.ledger)
    gaps = findings.routes(routes, entries, spans, now=time.time(), running=load.running(lab) is not None)
    looks = await asyncio.gather(*(_look(lab, node) for node in lab.of_kind("rabbitmq")))
    names = {node.address: node for node in lab.of_kind("rabbitmq")}
    letting_in = [look.address for look in looks if look.acknowledged]
    leading = _led(entries, list(dict.fromkeys(names[address].region for address in letting_in)), names)
    held: dict[str, set[str]] = {}
    errors: list[str] = []
    for region in rabbit.clusters(lab):
        held[region], why = await _held(lab, region)
        errors += why
    present = set().union(*held.values())
    # After the queues: what was in one of them a moment ago may have been delivered since, and is not lost.
    deliveries = read_deliveries(deliveries_of(lab.ledger))
    told = judge(entries, deliveries, present, present - held.get(leading, set()) if leading else set())
    beside = overlapping(entries, {address: node.region for address, node in names.items()})
    result = QueueAudit(
        acknowledged=told.confirmed,
        missing=None if errors else len(told.lost),
        concurrent_writers=0,
        routes=gaps,
        missing_ids=[] if errors else told.lost[:SAMPLE],
        unknown=sum(entry.outcome == "unknown" for entry in entries),
        servers=list(looks),
        errors=errors,
        delivered=told.delivered,
        in_queues=told.in_queues,
        duplicated=told.duplicated,
        redelivered=told.redelivered,
        reordered=told.reordered,
        out_of_reach=len(told.lost) if errors else 0,
        stranded=len(told.stranded),
        overlapping=len(beside),
    )
    convicted = [
        Conviction(
            server=address,
            timeline=0,
            reason=f"confirmed the referee's publish as a client, while {leading} serves",
        )
        for address in letting_in
        if names[address].region != leading
    ]
    convicted += [
        Conviction(server=address, timeline=0, reason=f"confirmed {count} messages beside another region")
        for address, count in Counter(entry.server for entry in beside).items()
    ]
    result.writers = writers_of(convicted, {address: node.name for address, node in names.items()})
    result.concurrent_writers = len({names[each.server].region for each in convicted})
    result.leader = next((names[address].name for address in letting_in if names[address].region == leading), "")
    return result


def _led(entries: list[ledger.Entry], regions: list[str], names: dict[str, Node]) -> str:
    """The region that serves: of those that let clients in, the one that confirmed last."""
    for entry in reversed(findings.acknowledged(entries)):
        if entry.server in names and names[entry.server].region in regions:
            return names[entry.server].region
    return regions[0] if regions else ""


async def _look(lab: Lab, node: Node) -> Seen:
    """Try a publish as a client, into a queue that ends with the session, in every virtual host: one is enough."""
    assert_inside(lab, node.host, node.port)
    tried = [await _try(lab, node, vhost) for vhost in rabbit.QUEUES]
    return next((seen for seen in tried if seen.acknowledged), tried[0])


async def _try(lab: Lab, node: Node, vhost: str) -> Seen:
    seen = Seen(name=node.name, address=node.address, state="unreachable")
    connection = None
    sent = time.time()
    try:
        async with asyncio.timeout(ASK_S):
            connection = await aio_pika.connect(
                host=node.host,
                port=node.port,
                login="app",
                password=lab.secret("queue-app"),
                virtualhost=vhost,
                timeout=ASK_S,
            )
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            queue = await channel.declare_queue(exclusive=True, auto_delete=True)
            await channel.default_exchange.publish(aio_pika.Message(b""), queue.name, mandatory=True)
    except (ConnectionRefusedError, TimeoutError) as error:
        return seen.model_copy(update={"detail": str(error) or "no answer"})
    except BROKEN as error:
        return seen.model_copy(update={"state": "closed", "detail": f"lets no client in: {type(error).__name__}"})
    finally:
        await leave(connection)
    return seen.model_copy(update={"state": "open", "acknowledged": True, "sent": sent, "acked": time.time()})


async def _held(lab: Lab, region: str) -> tuple[set[str], list[str]]:
    """Ids of the messages that lie in the region's queues, and why they can't be told."""
    why = "no node answers"
    for node in rabbit.clusters(lab)[region]:
        try:
            async with asyncio.timeout(PEEK_S):
                found: set[str] = set()
                for vhost in rabbit.QUEUES:
                    found |= await peek(lab, node, vhost)
                return found, []
        except BROKEN as error:
            why = f"{node.name}: {str(error) or type(error).__name__}"
    return set(), [f"what lies in {region} can't be read: {why}"]


async def peek(lab: Lab, node: Node, vhost: str) -> set[str]:
    """Take everything that is ready in the virtual host's queue without acknowledging it, so that it all goes back."""
    connection = await aio_pika.connect(
        host=node.host,
        port=node.port,
        login="referee",
        password=lab.secret("queue-referee"),
        virtualhost=vhost,
        timeout=FIRST_S,
    )
    found: set[str] = set()
    shown = 0
    came = time.monotonic()

    async def take(message: AbstractIncomingMessage) -> None:
        nonlocal came, shown
        shown += 1
        found.add(message.message_id or "")
        came = time.monotonic()

    try:
        channel = await connection.channel(publisher_confirms=False)
        async with asyncio.timeout(FIRST_S):
            try:
                queue = await channel.declare_queue(rabbit.QUEUES[vhost], passive=True)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return set()  # a standby that was never told of it
            ready = int(queue.declaration_result.message_count or 0)
            if ready == 0:
                return set()
            # A quorum queue gives each consumer 2,000 at most that it has not acknowledged.
            for _ in range(ready // _EACH + 1):
                await queue.consume(take)
        # By deliveries: of a message that lies there twice both are shown.
        while shown < ready and time.monotonic() - came < max(QUIET_S, 0.1 if found else FIRST_S):
            await asyncio.sleep(0.02)
        if shown < ready:
            raise TimeoutError(f"{shown} of {ready} messages in {vhost} were shown")
        return found
    finally:
        await leave(connection)


def text_of(found: QueueAudit) -> str:
    """The line that stands below the sums."""
    return (
        f"delivered {found.delivered}, in queues {found.in_queues}, duplicated {found.duplicated}"
        f" ({found.redelivered} flagged as redelivered), out of order {found.reordered}"
        f", stranded {found.stranded}, beside another region {found.overlapping}"
        + (f", out of reach {found.out_of_reach}" if found.out_of_reach else "")
    )
