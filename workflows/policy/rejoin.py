"""How a member comes back, and what its divergent WAL says of the loss (safety.md, Rejoin)."""

from __future__ import annotations

from schemas.facts import MemberFacts, lsn_text
from schemas.receipts import Receipt
from schemas.rejoin import Divergence, Examination, FolderFacts, Return, Room

VAIN = "it was started as it is, and did not come up or stream, as where WAL that it needs is gone"
ROOM = 1.1
"""A copy takes the leader's bytes and the WAL that is written meanwhile."""


def already_back(member: str, seen: MemberFacts | None, leader: MemberFacts | None) -> str | None:
    """Why nothing is to be done, as text; None when the member does not stream from where it should."""
    if seen is None or leader is None or not (seen.reachable and seen.in_recovery and leader.reachable):
        return None
    if seen.receiver is None or seen.receiver.status != "streaming" or seen.timeline != leader.timeline:
        return None
    if seen.system_identifier != leader.system_identifier:
        return None
    return f"{member} streams on timeline {seen.timeline} already"


def may_rejoin(found: Examination) -> str | None:
    """Why a person must look first; None when it may go on."""
    folder = found.folder
    if folder.system and folder.system != found.leader_system:
        return other_cluster(folder.member, folder.system, found.leader, found.leader_system)
    if folder.programs != found.leader_major:
        return (
            f"{folder.member} has PostgreSQL {folder.programs or 'none'} at its `bin`, {found.leader} runs"
            f" {found.leader_major}: its owner must install that"
        )
    return None


def unreadable(folder: FolderFacts) -> str | None:
    """Why nobody knows whose the folder's data is, as text; None where it tells, is empty, or only good for a copy."""
    if not folder.major or folder.system or folder.begun or not folder.programs:
        return None
    return (
        f"pg_control of {folder.member} can't be read, so that nobody knows what its folder holds: its owner must bring"
        " the file back, or put the folder aside, in whose place the leader's is then copied"
    )


def other_cluster(member: str, system: str, leader: str, leader_system: str) -> str:
    return (
        f"the data of {member} is another cluster's (system identifier {system}, {leader} has {leader_system}): it"
        " would be erased; its owner must find out whose it is, and empty the folder"
    )


def held_text(folder: FolderFacts) -> str:
    return (
        f"the folder of {folder.member} is held: {folder.held}; a rewind or a copy would destroy that: whoever needs"
        " it no more says `--release WHY`"
    )


def is_apart(found: Examination) -> bool:
    """Whether the folder may have WAL that the leader's history has not, so that it is to be looked for."""
    return found.parted is not None


def how_to_return(
    found: Examination,
    divergence: Divergence | None,
    *,
    in_vain: bool = False,
    anew: str = "",
    released: str = "",
) -> Return:
    """Follow where nothing diverged, rewind where it is right, else rebuild. `divergence`: what lies past the fork;
    `in_vain`: it was started as a standby as it is, and did not come up, or did not stream; `anew`: why it is to be
    copied in any case; `released`: why one that is held may be erased, by a person's word, which no other reason is.
    """
    if found.folder.held and not released:
        return Return(method="refuse", reason=held_text(found.folder))
    way = _way_back(found, divergence)
    if anew and way.method != "refuse":
        return _rebuild(found, anew)
    return _rebuild(found, VAIN) if in_vain and way.method == "follow" else way


def _way_back(found: Examination, divergence: Divergence | None) -> Return:
    folder, leader = found.folder, found.leader
    refusal = may_rejoin(found)
    if refusal is not None:
        return Return(method="refuse", reason=refusal)
    if not folder.major:
        return _rebuild(found, "its data folder is empty")
    if (unknown := unreadable(folder)) is not None:
        return Return(method="refuse", reason=unknown)
    if folder.begun:
        return _rebuild(found, f"a {folder.begun} has begun on it and not ended, which leaves it good for nothing else")
    if folder.major != found.leader_major:
        return _rebuild(found, f"its data is of PostgreSQL {folder.major}")
    if folder.timeline == found.leader_timeline:
        if folder.standby:
            return Return(method="follow", reason=f"it is on {leader}'s timeline {folder.timeline}")
        return _rebuild(found, f"it led on {leader}'s own timeline {folder.timeline}, so the two can't be told apart")
    if found.fork is None:
        return _apart(found, f"its timeline {folder.timeline} is none that {leader} ever was on")
    assert divergence is not None
    at = lsn_text(found.fork)
    if divergence.missing:
        if folder.position <= found.fork:
            return Return(method="follow", reason=f"it ends at {lsn_text(folder.position)}, before the fork at {at}")
        return _rebuild(found, f"its WAL from the fork at {at} on is gone")
    if not divergence.records:
        return Return(method="follow", reason=f"it has nothing past the fork at {at}")
    return _apart(found, f"it has WAL up to {lsn_text(divergence.end)}, past the fork at {at}")


def _apart(found: Examination, why: str) -> Return:
    if found.folder.hints:
        return Return(method="rewind", reason=why)
    return _rebuild(found, f"{why}, and it has neither checksums nor wal_log_hints, which a rewind needs")


def _rebuild(found: Examination, why: str) -> Return:
    return Return(method="rebuild", reason=why)


def room_for(member: str, leader: str, found: Room) -> str | None:
    """Why a copy of the leader would not fit, as text; None where it does, or where its size is not known."""
    if found.bytes is None or found.free + found.used >= (needed := int(found.bytes * ROOM)):
        return None
    room = found.free + found.used
    return f"{member} has room for {room / 1e9:.1f} GB, a copy of {leader} takes {needed / 1e9:.1f} GB"


def verdict_on(found: Examination, told: str, on_record: str) -> str:
    """The verdict that the loss of this folder was decided with: what the run was `told`, else that `on_record`, which
    is of the leader's newest promotion, and says nothing of whoever was left behind at one before it.
    """
    return told or (on_record if found.left_last else "")


def make_receipt(found: Examination, divergence: Divergence | None, predicted: str) -> Receipt | None:
    """The receipt of a member that may have led; None where the leader's history never left its timeline.

    `predicted`: the verdict that the promotion was decided on, as the epoch's record has it. `none` was proved by
    R + W > N: what lies past the fork was then acknowledged to nobody.
    """
    folder, parted = found.folder, found.parted
    if found.fork is None:
        predicted = ""  # Of what was promoted beside the leader no verdict of a failover says anything.
    if parted is None:
        if not folder.major or folder.timeline == found.leader_timeline:
            return None
        reason = f"its timeline {folder.timeline} is none that {found.leader} ever was on"
        return Receipt(member=folder.member, timeline=folder.timeline, fork=0, reason=reason, predicted=predicted)
    base = Receipt(member=folder.member, timeline=folder.timeline, fork=parted, reason="", predicted=predicted)
    if divergence is None or divergence.missing:
        if folder.position <= parted and not folder.begun:
            return base.model_copy(
                update={"end": parted, "commits": 0, "acknowledged_at_most": 0, "within": True}
                | {"reason": f"it ends before the fork at {lsn_text(parted)}"}
            )
        gone = divergence.missing if divergence is not None else "its WAL"
        return base.model_copy(update={"reason": f"{gone} of {folder.member} is gone, so nobody can count"})
    lost = divergence.commits + divergence.catalog_commits
    proved = predicted == "none"
    at_most = 0 if proved or not lost else lost
    reason = f"from {lsn_text(parted)} to {lsn_text(divergence.end)} on timeline {folder.timeline}"
    if lost:
        reason += (
            "; R + W > N: they were acknowledged to nobody" if proved else "; those in flight were not acknowledged"
        )
    receipt = base.model_copy(
        update={
            "end": divergence.end,
            "commits": divergence.commits,
            "own_commits": divergence.own_commits,
            "catalog_commits": divergence.catalog_commits,
            "acknowledged_at_most": at_most,
            "reason": reason,
            "first_commit": divergence.first_commit,
            "last_commit": divergence.last_commit,
            "last_commit_at": divergence.last_commit_at,
            "tables": divergence.tables,
            "kept": divergence.kept,
        }
    )
    return receipt.model_copy(update={"within": is_within(receipt)})


def newest(before: Receipt | None, counted: Receipt | None) -> Receipt | None:
    """Of two receipts of one run: the same WAL counted anew says more; what was counted of other WAL stands."""
    if before is None or counted is None:
        return before or counted
    same = (before.timeline, before.fork) == (counted.timeline, counted.fork)
    return counted if same and counted.commits is not None else before


def is_within(receipt: Receipt) -> bool | None:
    """Whether what was found lies within what was predicted; None where it can't be told.

    The last commit counts, not the WAL's end: a checkpoint at its shutdown, and Lifeboat's own writes, lose nothing.
    What was committed past the position that a bound rests on was acknowledged since, or to nobody, as it was stalled.
    """
    if receipt.predicted == "none":
        return True
    words = receipt.predicted.replace(",", "").split()
    if not receipt.predicted.startswith("bounded") or receipt.commits is None:
        return None
    if receipt.commits + receipt.catalog_commits == 0:
        return True
    if "bytes" in words:
        bound = int(words[words.index("bytes") - 1])
        return True if receipt.last_commit_at is None or receipt.last_commit_at - receipt.fork < bound else None
    if "s" not in words or receipt.first_commit is None or receipt.last_commit is None:
        return None
    # The bound ends where the primary did, which is at its last commit or later.
    seconds = float(words[words.index("s") - 1])
    return True if (receipt.last_commit - receipt.first_commit).total_seconds() <= seconds else None
