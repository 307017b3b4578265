"""What publishes, deliveries and what still lies in queues prove together, as pure functions."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from pydantic import BaseModel

from lab.findings import acknowledged
from lab.ledger import Entry
from lab.queue_traffic import Delivery

MOVE_S = 0.3
"""No move is done within this: between the last confirmation in one region and the first message that another
confirms a source is read as empty twice (half a second), or a loss is noticed first."""


class QueueFinding(BaseModel):
    """`lost`: confirmed, and neither delivered nor in a queue. `stranded`: confirmed, not delivered, and only in queues
    of a region that does not lead, where nobody consumes. `duplicated`: delivered more than once, of which
    `redelivered` came with that flag each further time: the broker had it, and its consumer went away. `reordered`: a
    publisher's message that came after a later one of its own."""

    confirmed: int
    delivered: int
    in_queues: int
    lost: list[str]
    stranded: list[str]
    duplicated: int
    redelivered: int
    reordered: int


def judge(
    entries: Sequence[Entry],
    deliveries: Sequence[Delivery],
    in_queues: Collection[str],
    elsewhere: Collection[str] = (),
) -> QueueFinding:
    """`in_queues`: all that lies in any region; `elsewhere`: what of it lies only where nobody is led to."""
    confirmed = [entry.id for entry in acknowledged(entries)]
    times = Counter(each.id for each in deliveries)
    flagged: Counter[str] = Counter(each.id for each in deliveries if each.redelivered)
    more = [name for name, count in times.items() if count > 1]
    there, set_elsewhere = set(in_queues), set(elsewhere)
    return QueueFinding(
        confirmed=len(confirmed),
        delivered=len(times),
        in_queues=len(there - set(times)),
        lost=[name for name in confirmed if name not in times and name not in there],
        stranded=[name for name in confirmed if name in set_elsewhere and name not in times],
        duplicated=len(more),
        redelivered=sum(flagged[name] >= times[name] - 1 for name in more),
        reordered=_reordered(deliveries),
    )


def overlapping(entries: Sequence[Entry], regions: Mapping[str, str]) -> list[Entry]:
    """Messages that one region confirmed although another one did so as they were sent, or a moment before.

    `regions`: server → its region. What the old cluster still confirms of messages sent before the new one's first is
    none of these.
    """
    told = [entry for entry in acknowledged(entries) if entry.server in regions]
    confirmed: dict[str, list[float]] = {}
    for entry in told:
        confirmed.setdefault(regions[entry.server], []).append(entry.acked or 0.0)
    for times in confirmed.values():
        times.sort()

    def beside(entry: Entry) -> bool:
        sent = entry.sent or 0.0
        for region, times in confirmed.items():
            last = bisect_right(times, sent)
            if region != regions[entry.server] and last and sent - times[last - 1] < MOVE_S:
                return True
        return False

    return [entry for entry in told if beside(entry)]


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
