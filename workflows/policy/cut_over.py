"""Who is put back to a moment and leads from there, and whether it stands where the copy stood (docs/adr/0037)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from schemas.decisions import Assessment, Choice, Death, Verdict
from schemas.facts import EpochRecord, MemberFacts
from schemas.orders import PromoteResult
from schemas.rejoin import FolderFacts, Room
from schemas.restores import CopyFacts, Newest, Proof
from schemas.topology import DatabaseService, Member
from workflows.policy.restore import lsn_text
from workflows.policy.switchover import first_fit, no_standby


def choose(
    service: DatabaseService, leader: MemberFacts, facts: Sequence[MemberFacts], requested: str | None
) -> tuple[str | None, str]:
    """The candidate and why, or None and why nobody: a standby in reach, of the leader's region if there is one."""
    found = {each.member: each for each in facts}
    name, why = first_fit(service, leader, requested, lambda name: unfit(service.member(name), found.get(name), leader))
    if name is None:
        return None, why
    return name, f"{name} in {service.member(name).region} is put back, {leader.member} keeps what came after"


def unfit(member: Member, facts: MemberFacts | None, leader: MemberFacts) -> str | None:
    """Why a member can't be put back, as text; None where it can."""
    if member.control is None or member.data is None:
        return "has no `control` and `data` in the topology"
    return no_standby(facts, leader)


def assess(record: EpochRecord, leader: MemberFacts, chosen: str, why: str, moment: int) -> Assessment:
    """What is lost is lost by decision: all that was written after the moment, and more until the leader is fenced."""
    name = leader.member
    by_now = f"{max((leader.written or 0) - moment, 0)} bytes by now"
    return Assessment(
        suspect=name,
        death=Death(state="alive", reason=f"{name} answers: this is decided"),
        choice=Choice(candidate=chosen, reason=why),
        verdict=Verdict(kind="unknown", reason=f"what {name} wrote after the moment is lost to the service: {by_now}"),
        w=record.w,
        voters=record.voters,
        digest="",
    )


def too_small(member: str, room: Room) -> str | None:
    """Why the backup would not fit where the member's data is, as text; None where it does."""
    if room.bytes is None or room.free + room.used >= room.bytes:
        return None
    return f"{member} has room for {(room.free + room.used) / 1e9:.1f} GB, the backup takes {room.bytes / 1e9:.1f} GB"


def kept_text(service: str, member: str, what: str) -> str:
    """What a person does about a member that is stopped, and keeps what is nowhere else."""
    home = f"lifeboat run database-rejoin {service} --member {member} --release WHY"
    return f"{member} is stopped, and keeps {what}: `{home}` brings it home, and erases that"


def how_to_start(folder: FolderFacts, epoch: int) -> tuple[Literal["runs", "standby", "leader", "person"], str]:
    """How the candidate is started again once its promotion was ordered in this epoch, and why.

    The stamp is written after standby.signal, and the promotion takes that away: without it, and with this epoch's
    stamp, the folder was promoted by this run, unless its control file says that recovery had not ended.
    """
    if folder.running:
        return "runs", f"{folder.member} runs"
    if folder.begun:
        return "person", f"a {folder.begun} of {folder.member} has begun and not ended"
    if folder.standby:
        return "standby", f"{folder.member} ended before it was promoted"
    if folder.stamp != epoch:
        return "person", f"{folder.member} is no standby, on the stamp of epoch {folder.stamp}; this run has {epoch}"
    if folder.state == "in archive recovery":
        return "person", f"{folder.member} ended in the midst of its promotion"
    return "leader", f"{folder.member} was promoted in epoch {epoch}, and ended"


def not_its_own(promoted: PromoteResult, suspect: str, led_on: int) -> str | None:
    """Why the new leader's timeline is no later than that of who led before, as text; None where it is.

    Two branches have one number then: neither the archive nor a rejoin can tell their WAL apart.
    """
    if promoted.timeline > led_on:
        return None
    return (
        f"{promoted.member} leads on timeline {promoted.timeline}, and {suspect} led on {led_on}: two branches have one"
        f" number, and their WAL can't be told apart by it; see whose files of timeline {promoted.timeline} the archive"
        f" has before anything is restored from them, and bring {suspect} home by a copy alone"
    )


def compare(found: CopyFacts, copy: CopyFacts) -> list[Proof]:
    """Whether the member stands where the copy stood, of the same cluster, on the same branch, at the same byte."""
    return [
        Proof(
            clause="it stands at the copy's own place",
            ok=found.replayed == copy.replayed,
            evidence=f"replayed to {lsn_text(found.replayed)}; the copy to {lsn_text(copy.replayed)}",
        ),
        Proof(
            clause="its last commit is the copy's",
            ok=None if copy.last_commit is None else found.last_commit == copy.last_commit,
            evidence=f"{found.last_commit or 'none'}; the copy's {copy.last_commit or 'none'}",
        ),
        Proof(
            clause="its heartbeat is the copy's",
            ok=None if copy.heartbeat is None else found.heartbeat == copy.heartbeat,
            evidence=f"{found.heartbeat or 'none'}; the copy's {copy.heartbeat or 'not told'}",
        ),
    ]


def compare_rows(found: Sequence[Newest], copy: Sequence[Newest]) -> list[Proof]:
    """The newest row of each table, where the copy told it."""
    at = {each.table: each for each in found}
    proofs = []
    for each in copy:
        here = at.get(each.table)
        told = None if each.error or here is None or here.error else here.at == each.at
        evidence = f"{here.at or here.error if here else 'not asked'}; the copy's {each.at or each.error}"
        proofs.append(Proof(clause=f"the newest row of {each.table} is the copy's", ok=told, evidence=evidence))
    return proofs
