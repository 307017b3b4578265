"""In what order a cache's histories stand, as pure functions: Redis numbers them not, as PostgreSQL does its timelines.

A server that is promoted begins a history of its own (`master_replid`), and tells from which (`master_replid2`). One
that restarts as a master begins one too, and tells of none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lab import findings
from lab.ledger import Entry


@dataclass(frozen=True)
class Place:
    """A server as it was found: whom it leads, and in which history."""

    address: str
    state: Literal["master", "replica", "unreachable", "silent"]
    replid: str = ""
    parent: str = ""
    replicas: int = 0


def survivor(places: Iterable[Place], entries: Iterable[Entry]) -> Place | str:
    """The master whose keys count as the surviving history, or why nobody can say.

    Of several masters the one that most replicas follow: theirs is the history that goes on. Where no other may
    lead, one whose history did not begin from the last that acknowledged is none: it came back from before.
    """
    there = list(places)
    masters = [place for place in there if place.state == "master"]
    written = findings.acknowledged(entries)
    last = {entry.server: entry.acked or 0.0 for entry in written}
    if not masters:
        states = ", ".join(f"{place.address} {place.state}" for place in there)
        return f"no master can be read; {states}"
    found = max(masters, key=lambda place: (place.replicas, last.get(place.address, 0.0)))
    if not written:
        return found
    rank = ranks(written, _parents(written, there), found.replid)
    newest = max(written, key=lambda entry: (rank[entry.replid], entry.acked or 0.0))
    if newest.server == found.address or newest.replid in lineage(found.replid, _parents(written, there)):
        return found
    return (
        f"{newest.server} acknowledged last, in history {newest.replid[:8]}, which that of {found.address},"
        f" {found.replid[:8]}, did not begin from"
    )


def ordered(entries: Sequence[Entry], places: Iterable[Place], tip: str) -> list[Entry]:
    """The entries with their history's rank as `timeline`. `tip` is the surviving history; empty where unknown."""
    rank = ranks(entries, _parents(entries, places), tip)
    return [entry.model_copy(update={"timeline": rank.get(entry.replid, 0)}) for entry in entries]


def _parents(entries: Iterable[Entry], places: Iterable[Place]) -> dict[str, str]:
    found = {entry.replid: entry.parent for entry in entries if entry.parent}
    return found | {place.replid: place.parent for place in places if place.parent}


def lineage(tip: str, parents: Mapping[str, str]) -> list[str]:
    """The history and those that it began from, the newest first."""
    found = [tip]
    while (parent := parents.get(found[-1], "")) and parent not in found:
        found.append(parent)
    return found


def ranks(entries: Iterable[Entry], parents: Mapping[str, str], tip: str) -> dict[str, int]:
    """Each history's place, from 1 on: by its first acknowledgement, and one beside the surviving line below it.

    An old master that restarts begins a new history later than its successor, and yet it is the one that may not write.
    """
    began: dict[str, int] = {}
    for entry in findings.acknowledged(entries):
        began.setdefault(entry.replid, len(began))
    line = set(lineage(tip, parents))
    keys: dict[str, tuple[int, int]] = {}
    for replid, index in began.items():
        before = [began[each] for each in line if each in began and began[each] < index]
        beside = replid not in line and bool(before)
        keys[replid] = (max(before), 0) if beside else (index, 1)
    places = sorted(set(keys.values()))
    return {replid: places.index(key) + 1 for replid, key in keys.items()}
