"""How strongly the old primary is kept from acknowledging (safety.md, "What fences and what doesn't")."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from schemas.decisions import Fence
from schemas.facts import EpochRecord
from workflows.policy.quorum import SyncSet

Strength = Literal["stopped", "isolated", "stalled", "disconnected", "none"]


def judge_fence(
    *,
    stopped: bool,
    isolated: bool = False,
    stalled: bool,
    disconnected: Collection[str],
    direct: Collection[str],
    record: EpochRecord | None,
    proved: bool,
    suspect: str | None = None,
) -> Fence:
    """The strongest fence in force, strongest first, and what shows it.

    `record` is the one under which the old primary led, of before the routes moved (`suspect`, when given, must be
    its leader). Disconnection fences only while fewer than W voters can still acknowledge. `proved`: a write on a
    session held open from before was not acknowledged.
    """
    cut = _disconnection(disconnected, record, suspect)
    connected = sorted(set(direct) - set(disconnected))
    shown: list[str] = []
    if stopped:
        shown.append("the server is stopped: no process and a closed port")
    if isolated:
        shown.append("the server is isolated from the network")
    if stalled:
        shown.append("no standby of its synchronous set exists, and its sessions were ended")
    shown.append(cut[1])
    shown.append(
        f"{', '.join(connected)} may still receive from it" if connected else "every direct standby is disconnected"
    )
    shown.append("a write to it was not acknowledged" if proved else "not proved by a write")
    strength: Strength = "none"
    for holds, name in _RANKS(stopped, isolated, stalled, cut[0]):
        if holds:
            strength = name
            break
    return Fence(strength=strength, evidence="; ".join(shown), proved=proved and strength != "none")


def _RANKS(stopped: bool, isolated: bool, stalled: bool, cut: bool) -> list[tuple[bool, Strength]]:
    return [(stopped, "stopped"), (isolated, "isolated"), (stalled, "stalled"), (cut, "disconnected")]


def _disconnection(
    disconnected: Collection[str], record: EpochRecord | None, suspect: str | None
) -> tuple[bool, str]:
    if record is None or suspect not in (None, record.leader):
        return False, "nobody knows how many voters it needs, so disconnecting some proves nothing"
    sync = SyncSet.of(record.w, record.voters, record.leader)
    if not sync.w:
        return False, "it acknowledges alone, so disconnecting standbys does not stop it"
    left = [name for name in sync.voters if name not in disconnected]
    gather = f"it needs {sync.w} of {len(sync.voters)} voters, and {len(left)} can still acknowledge"
    return len(left) < sync.w, gather + (f" ({', '.join(left)})" if left else "")
