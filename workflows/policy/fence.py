"""How strongly the old primary is kept from acknowledging (safety.md, "What fences and what doesn't")."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from schemas.decisions import Fence
from schemas.facts import EpochRecord
from workflows.policy.quorum import SyncSet


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
    """The strongest fence in force, and all that shows it.

    `record` is the one under which the old primary led, of before the routes moved; with `suspect` it is checked
    that it led there. Disconnection fences only while fewer than W voters can still acknowledge. `proved`: a write
    on a session held open from before was not acknowledged.
    """
    cut, sum_text = _disconnection(disconnected, record, suspect)
    connected = sorted(set(direct) - set(disconnected))
    fences: list[tuple[bool, Literal["stopped", "isolated", "stalled", "disconnected"], str]] = [
        (stopped, "stopped", "the server is stopped: no process, and its port closed"),
        (isolated, "isolated", "the cloud's API has cut the server off the network, or stopped its instance"),
        (stalled, "stalled", "it waits for a standby that doesn't exist"),
        (cut, "disconnected", sum_text),
    ]
    shown = [text for holds, _, text in fences if holds]
    if not cut:
        shown.append(sum_text)
    shown.append(
        f"{', '.join(connected)} may still receive from it" if connected else "every direct standby is disconnected"
    )
    if not proved:
        shown.append("no write has proved it")
    strength = next((name for holds, name, _ in fences if holds), "none")
    return Fence(strength=strength, evidence="; ".join(shown), proved=proved)


def _disconnection(disconnected: Collection[str], record: EpochRecord | None, suspect: str | None) -> tuple[bool, str]:
    """Whether disconnection alone fences, and the sum that says so."""
    if record is None or suspect not in (None, record.leader):
        return False, "nobody knows how many voters it needs, so disconnecting some proves nothing"
    sync = SyncSet.of(record.w, record.voters, record.leader)
    if not sync.w:
        return False, "it acknowledges alone, so disconnecting standbys does not stop it"
    left = [name for name in sync.voters if name not in disconnected]
    gathers = f"it needs {sync.w} of {len(sync.voters)} voters and can gather {len(left)}"
    return len(left) < sync.w, gathers + (f" ({', '.join(left)})" if left else "")
