"""Is the primary dead? (safety.md, "Is the primary dead?")

Dead = enough vantages in different regions fail, **and** no direct standby denies it. Unreachable is not dead: what
a standby's receiver heard from the primary after our first failed probe outweighs every probe of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from schemas.decisions import Death
from schemas.facts import MemberFacts, Probe, Receiver
from schemas.topology import DatabaseService, Member


@dataclass(frozen=True)
class _Testimony:
    """`denies`: hears it; `doubt`: can't be ruled out to hear it; `fresh`: heard it, perhaps before it died."""

    says: Literal["denies", "doubt", "fresh", "nothing", "mute"]
    text: str
    wait_s: float = 0.0


def judge_death(
    service: DatabaseService,
    suspect: str,
    probes: Sequence[Probe],
    standbys: Sequence[MemberFacts],
    *,
    first_failure: datetime | None,
) -> Death:
    """Whether `suspect` is dead, by the newest probe of each region and what its direct standbys hear.

    `first_failure` is when the first probe failed (None: the earliest failed one of `probes`). With `wait`, look
    again after `wait_s` seconds with the same `first_failure`. KeyError when the suspect is not a member.
    """
    votes = _newest_by_region(service, suspect, probes)
    failing = [region for region, probe in votes.items() if probe.outcome in ("refused", "timeout")]
    seeing = [region for region, probe in votes.items() if probe.outcome == "alive"]
    quorum = service.detection.quorum
    outcomes = {region: probe.outcome for region, probe in votes.items()}
    tally = f"{len(failing)} of {len(votes)} regions fail to reach {suspect}, {quorum} are needed"
    if len(failing) < quorum:
        if seeing:
            return Death(state="alive", reason=f"{tally}; {_list(seeing)} sees it alive", votes=outcomes)
        return Death(
            state="ask",
            reason=f"{tally}; the other regions reach nothing at all, so they have no vote",
            votes=outcomes,
        )

    since = first_failure or min(
        probe.at for probe in probes if probe.member == suspect and probe.outcome in ("refused", "timeout")
    )
    heard = _testimonies(service, suspect, standbys, since)
    testimony = {name: each.text for name, each in heard.items()}
    closed = [probe.closed_at for probe in votes.values() if probe.outcome != "blind"]
    gone_at = max((at for at in closed if at is not None), default=None) if None not in closed else None
    tally = f"{len(failing)} of {len(votes)} regions fail to reach {suspect}"
    if seeing:
        tally += f" ({_list(seeing)} still sees it alive)"

    def conclude(state: Literal["dead", "wait", "ask"], reason: str, wait_s: float = 0.0) -> Death:
        return Death(
            state=state,
            reason=f"{tally}; {reason}",
            votes=outcomes,
            testimony=testimony,
            wait_s=wait_s,
            gone_at=gone_at if state == "dead" else None,
        )

    def those(says: str) -> str:
        return "; ".join(f"{name} {each.text}" for name, each in heard.items() if each.says == says)

    if denied := those("denies"):
        return conclude("ask", f"unreachable, not dead: {denied}")
    if doubted := those("doubt"):
        return conclude("ask", f"its death can't be told: {doubted}")
    if fresh := those("fresh"):
        longest = max(each.wait_s for each in heard.values())
        return conclude("wait", f"not silent for long enough yet: {fresh}", longest)
    if silent := those("nothing"):
        return conclude("dead", f"and no standby denies it: {silent}")
    return conclude("ask", f"no direct standby can testify: {those('mute') or 'there is none'}")


def silence_limit_s(receiver: Receiver, interval_s: float) -> float:
    """X of safety.md: how long a live primary can be silent, in seconds.

    At half of wal_receiver_timeout a receiver asks its sender for a sign of life (PostgreSQL 15,
    walreceiver.c, WalReceiverMain); one probe interval is left for the answer.
    """
    return receiver.timeout_s / 2 + interval_s


def _newest_by_region(service: DatabaseService, suspect: str, probes: Sequence[Probe]) -> dict[str, Probe]:
    vantages = service.detection.vantages
    newest: dict[str, Probe] = {}
    for probe in sorted(probes, key=lambda each: each.at):
        if probe.member == suspect and (not vantages or probe.region in vantages):
            newest[probe.region] = probe
    return newest


def _testimonies(
    service: DatabaseService, suspect: str, standbys: Sequence[MemberFacts], since: datetime
) -> dict[str, _Testimony]:
    """What each direct standby says, by name. Members that follow another one are left out: they can't know."""
    newest = {facts.member: facts for facts in sorted(standbys, key=lambda each: each.at)}
    said: dict[str, _Testimony] = {}
    for member in service.members:
        if member.name == suspect:
            continue
        testimony = _testimony(service, service.member(suspect), member, newest.get(member.name), since)
        if testimony is not None:
            said[member.name] = testimony
    return said


def _testimony(
    service: DatabaseService, suspect: Member, member: Member, facts: MemberFacts | None, since: datetime
) -> _Testimony | None:
    declared = member.follows in (None, suspect.name)
    if facts is None or not facts.reachable:
        why = facts.error if facts is not None and facts.error else "no answer"
        return _Testimony("mute", f"is not reached ({why})") if declared else None
    if not facts.in_recovery:
        return _Testimony("mute", "is no standby: it leads itself") if declared else None
    address = _address(suspect.host, suspect.port)
    receiver = facts.receiver
    if receiver is not None:
        sender = _address(receiver.sender_host, receiver.sender_port)
        if sender == address:
            return _hearing(facts, receiver, since, service.detection.interval_s)
        if declared and sender not in {_address(each.host, each.port) for each in service.members}:
            # The suspect by another of its names, perhaps: not known to be dead.
            return _Testimony("doubt", f"receives from {sender}, which is no declared address")
    if facts.follows.lower() == address:
        return _Testimony("nothing", "has no receiver from it")
    if declared and not facts.follows:
        return _Testimony("mute", "was disconnected from it")
    return None


def _hearing(facts: MemberFacts, receiver: Receiver, since: datetime, interval_s: float) -> _Testimony:
    silent = max(receiver.silent_s, 0.0)
    ago = f"heard from it {silent:.1f} s ago"
    # One interval is left for the clocks of the regions and for a message that was under way.
    if facts.at - timedelta(seconds=silent) > since + timedelta(seconds=interval_s):
        return _Testimony("denies", f"{ago}, after the first failed probe")
    if receiver.timeout_s <= 0:
        return _Testimony("doubt", f"{ago}, and its wal_receiver_timeout is off, so silence says nothing")
    limit = silence_limit_s(receiver, interval_s)
    if silent < limit:
        return _Testimony("fresh", f"{ago}, silence counts after {limit:.1f} s", limit - silent)
    return _Testimony("nothing", f"{ago}, too long for a live one ({limit:.1f} s)")


def _address(host: str, port: int) -> str:
    return f"{host}:{port}".lower()


def _list(regions: Sequence[str]) -> str:
    return ", ".join(regions)
