"""What a ledger proves, as pure functions: the entries in, the findings out; `now` is an argument.

Invariant 1 of safety.md: no write *sent* after the new primary's first acknowledgement is acknowledged by the old
one. Acknowledgements of writes that were sent earlier are no offence: whether they are in the surviving history is
what counting the missing rows finds out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise

from pydantic import BaseModel

from lab.ledger import Entry, Span
from schemas.reports import Witness

WRITING_S = 2.0
"""A route is writing if a write was acknowledged within this time: two of the writers' time-outs fit into it."""


GAP_S = 0.3
"""A route's writers acknowledge every 40 ms when all is well: a pause from here on is drawn as an outage."""


class RouteFinding(BaseModel):
    """`longest_gap_s`: the longest time without an acknowledgement while the load ran, an open gap counted to now."""

    longest_gap_s: float
    writing: bool


class Conviction(BaseModel):
    """A server that acknowledged when another already led, and why we say so."""

    server: str
    timeline: int
    reason: str


def acknowledged(entries: Iterable[Entry]) -> list[Entry]:
    """The entries that were acknowledged without a warning, by time of acknowledgement."""
    found = [entry for entry in entries if entry.outcome == "acknowledged" and entry.acked is not None]
    return sorted(found, key=_acked)


def newest_acknowledger(entries: Iterable[Entry]) -> Entry | None:
    """The last acknowledgement on the newest timeline: its server holds the surviving history."""
    return max(acknowledged(entries), key=lambda entry: (entry.timeline, _acked(entry)), default=None)


def routes(
    names: Iterable[str], entries: Iterable[Entry], spans: Sequence[Span], *, now: float, running: bool
) -> dict[str, RouteFinding]:
    """The finding of each route. `running`: the load of the last span runs still.

    A load that was stopped in good order ends its gaps at its stop.
    """
    times: dict[str, list[float]] = {name: [] for name in names}
    for entry in acknowledged(entries):
        times.setdefault(entry.route, []).append(_acked(entry))
    # A load that died counts until the next one began, or until now.
    ends = [span.stopped or follower.started for span, follower in pairwise(spans)]
    ends += [span.stopped or now for span in spans[-1:]]
    while_on = [(span.started, end) for span, end in zip(spans, ends, strict=True)]
    return {
        name: RouteFinding(
            longest_gap_s=round(max((_longest_gap(seen, *on) for on in while_on), default=0.0), 3),
            writing=running and bool(seen) and now - seen[-1] <= WRITING_S,
        )
        for name, seen in times.items()
    }


def outages(names: Iterable[str], entries: Iterable[Entry], since: float) -> list[Witness]:
    """Each route's first gap of GAP_S or more that did not end before `since`, as its clients saw it."""
    times: dict[str, list[float]] = {name: [] for name in names}
    for entry in acknowledged(entries):
        times.setdefault(entry.route, []).append(_acked(entry))
    found = []
    for name, seen in times.items():
        gaps = [(a, b) for a, b in pairwise(seen) if b >= since and b - a >= GAP_S]
        if gaps:
            found.append(_witness(name, *gaps[0]))
        elif seen and seen[-1] < since:
            found.append(_witness(name, seen[-1], None))
    return found


def _witness(route: str, last_good: float, first_good: float | None) -> Witness:
    return Witness(
        route=route,
        last_good=datetime.fromtimestamp(last_good, UTC),
        first_good=None if first_good is None else datetime.fromtimestamp(first_good, UTC),
        source="the lab's load",
    )


def _longest_gap(seen: Sequence[float], started: float, ended: float) -> float:
    points = [started, *(moment for moment in seen if started <= moment <= ended), ended]
    return max(later - earlier for earlier, later in pairwise(points))


def convictions(entries: Iterable[Entry], *, history: str = "timeline") -> list[Conviction]:
    """Each server that acknowledged a write sent after another, on a later timeline, had begun to acknowledge.

    A server may lead again and again, each time on a later timeline: every leadership is judged by itself. On one
    timeline there may be a handover (a standby that never heard of a promoted one that died takes the same number),
    but never two at once: pg_rewind without -R makes that (safety.md, "Rejoin"), and the later one is convicted.
    `history` is what the reasons call a timeline.
    """
    led: dict[tuple[str, int], list[Entry]] = defaultdict(list)
    for entry in acknowledged(entries):
        led[entry.server, entry.timeline].append(entry)
    convicted: dict[str, Conviction] = {}
    for place, found in led.items():
        rivals = {other: _acked(led[other][0]) for other in led if _rules_out(other, place, led)}
        if not rivals or place[0] in convicted:
            continue
        rival, moment = min(rivals.items(), key=lambda item: item[1])
        late = [entry for entry in found if _sent_after(entry, moment)]
        if late:
            last = max(_acked(entry) for entry in late) - moment
            convicted[place[0]] = Conviction(
                server=place[0],
                timeline=place[1],
                reason=f"acknowledged {len(late)} writes on {history} {place[1]} that were sent after {rival[0]} had"
                f" begun to acknowledge on {history} {rival[1]}, the last {last:.3f} s after it",
            )
    return list(convicted.values())


def _rules_out(rival: tuple[str, int], place: tuple[str, int], led: Mapping[tuple[str, int], list[Entry]]) -> bool:
    """Whether a leadership may acknowledge nothing that was sent after its rival's began."""
    if rival[0] == place[0] or rival[1] < place[1]:
        return False
    if rival[1] > place[1]:
        return True
    # On one timeline the first owns it, as long as it goes on; once it has ended, the other took over.
    ours = _acked(led[place][0])
    return _acked(led[rival][0]) < ours and any(_sent_after(entry, ours) for entry in led[rival])


def _sent_after(entry: Entry, moment: float) -> bool:
    return entry.sent is not None and entry.sent > moment


def beside_the_leader(
    witnessed: Mapping[str, int],
    entries: Iterable[Entry],
    guilty: Collection[str] = (),
    *,
    history: str = "timeline",
) -> tuple[str | None, list[Conviction]]:
    """The leader among the servers that acknowledged the referee's own write just now, and every other one convicted.

    `witnessed` maps server to timeline. The newest timeline leads; among equals one that isn't `guilty` already, then
    the one that acknowledged a client last; where no client was there to tell them apart, one is spared all the same,
    since one of them may lead.
    """
    if not witnessed:
        return None, []
    last: dict[str, float] = {}
    for entry in acknowledged(entries):
        last[entry.server] = _acked(entry)
    leader = max(witnessed, key=lambda server: (witnessed[server], server not in guilty, last.get(server, 0.0)))
    return leader, [
        Conviction(
            server=server,
            timeline=timeline,
            reason=f"acknowledged the referee's write on {history} {timeline} while {leader} acknowledged one on"
            f" {history} {witnessed[leader]}",
        )
        for server, timeline in witnessed.items()
        if server != leader
    ]


def _acked(entry: Entry) -> float:
    return entry.acked if entry.acked is not None else 0.0
