"""What publishes, deliveries and what still lies in queues prove together, as pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from pydantic import BaseModel

from lab.findings import acknowledged
from lab.ledger import Entry
from lab.queue_traffic import Delivery


class QueueFinding(BaseModel):
    """`lost`: confirmed, and neither delivered nor in a queue. `duplicated`: delivered more than once, of which
    `redelivered` came with that flag each further time: the broker had it, and its consumer went away. `reordered`: a
    publisher's message that came after a later one of its own."""

    confirmed: int
    delivered: int
    in_queues: int
    lost: list[str]
    duplicated: int
    redelivered: int
    reordered: int


def judge(entries: Sequence[Entry], deliveries: Sequence[Delivery], in_queues: Collection[str]) -> QueueFinding:
    confirmed = [entry.id for entry in acknowledged(entries)]
    times = Counter(each.id for each in deliveries)
    flagged: Counter[str] = Counter(each.id for each in deliveries if each.redelivered)
    more = [name for name, count in times.items() if count > 1]
    there = set(in_queues)
    return QueueFinding(
        confirmed=len(confirmed),
        delivered=len(times),
        in_queues=len(there - set(times)),
        lost=[name for name in confirmed if name not in times and name not in there],
        duplicated=len(more),
        redelivered=sum(flagged[name] >= times[name] - 1 for name in more),
        reordered=_reordered(deliveries),
    )


def _reordered(deliveries: Sequence[Delivery]) -> int:
    """By first deliveries alone: what comes again is a duplicate, and out of order by its nature."""
    newest: dict[tuple[str, str], int] = {}
    seen: set[str] = set()
    late = 0
    for each in sorted(deliveries, key=lambda each: each.at):
        if each.id in seen:
            continue
        seen.add(each.id)
        place = (each.route, each.writer)
        if each.seq < newest.get(place, 0):
            late += 1
        newest[place] = max(each.seq, newest.get(place, 0))
    return late
