"""What a damaged database is repaired by, and what is written of it afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from schemas.base import Fact
from schemas.damage import Damaged, DamageEvidence, MemberDamage, Pulse
from schemas.reports import DecisionReport, StepReport
from schemas.restores import Proof
from schemas.topology import DatabaseService

FEW = 20
"""Of fewer transactions a ratio says nothing."""


class Repair(Fact):
    """`switch`: a whole standby takes over, and the damaged are copied anew; `rebuild`: these alone; `copy-back`: the
    tables as they were at the last good moment; `person`: nothing that a machine should choose.
    """

    kind: Literal["none", "switch", "rebuild", "copy-back", "person"]
    reason: str
    candidate: str = ""
    rebuild: list[str] = []


def choose_repair(
    service: DatabaseService,
    leader: str,
    members: Sequence[MemberDamage],
    queries: Sequence[Proof],
    tables: Sequence[str],
) -> Repair:
    """By what is damaged: pages of some members are good on the others; what is wrong in the rows is so on all."""
    wrong = [each.clause for each in queries if each.ok is False]
    bad = [each for each in members if each.damaged]
    if wrong and tables:
        return Repair(
            kind="copy-back",
            reason=f"{', '.join(wrong)}: the rows are wrong on every member, and only a restored copy has good ones",
        )
    if wrong and not bad:
        return Repair(
            kind="person",
            reason=f"{', '.join(wrong)}: the rows are wrong, and nobody said in which tables (`tables` of the request)",
        )
    if not bad:
        return Repair(kind="none", reason="no member is damaged, and every owner's query is answered as it should be")
    names = [each.member for each in bad]
    if leader not in names:
        return Repair(
            kind="rebuild", reason=f"only standbys are damaged: {', '.join(names)}; {leader} is whole", rebuild=names
        )
    whole = [each.member for each in members if each.whole]
    candidate = next((name for name in service.may_be_promoted() if name in whole and name != leader), None)
    if candidate is None:
        return Repair(
            kind="person",
            reason=f"{leader} is damaged, and none that may be promoted was found whole: restore the newest moment"
            " (PitrRestore), and decide what of it is taken",
        )
    return Repair(
        kind="switch",
        reason=f"pages of {', '.join(names)} are damaged; {candidate} has every commit, and was found whole",
        candidate=candidate,
        rebuild=names,
    )


def written_to(found: DamageEvidence, tables: Sequence[str], database: str) -> list[Damaged]:
    """What was repaired, each once: it is looked at again while clients write."""
    copied = [Damaged(kind="heap", relation=f"{database}.{table}", told="copied back") for table in tables]
    damaged = [one for member in found.members for one in member.damaged]
    return list({each.relation: each for each in (*damaged, *copied)}.values())


def unwell(pulse: Pulse, share: float, max_rollbacks: float) -> str:
    """Why a share of writes (1: all of them) can't stay; "" where it can."""
    if pulse.broke:
        return pulse.broke
    if pulse.failures:
        return f"{pulse.failures} pages failed their checksum when they were read"
    if share == 1 and pulse.read_only:
        return "it is read-only still, or again"
    ended = pulse.commits + pulse.rollbacks
    if share == 1 and ended >= FEW and pulse.rollbacks > max_rollbacks * ended:
        return (
            f"{pulse.rollbacks} of {ended} transactions were rolled back; `corruption.max_rollbacks` is"
            f" {max_rollbacks:g}"
        )
    return ""


def halves(good: datetime, bad: datetime) -> datetime:
    """The moment in the middle."""
    return good + (bad - good) / 2


def scope_text(members: Sequence[MemberDamage]) -> str:
    """Who is damaged, and where."""
    told = []
    for each in members:
        if each.error:
            told.append(f"{each.member} not checked: {each.error}")
        elif each.damaged:
            told.append(f"{each.member}: " + ", ".join(f"{one.kind} {one.relation}" for one in each.damaged))
    whole = [each.member for each in members if each.whole]
    return "; ".join([*told, f"whole: {', '.join(whole) or 'nobody'}"])


def post_mortem(
    service: str,
    reason: str,
    found: DamageEvidence,
    steps: Sequence[StepReport],
    decisions: Sequence[DecisionReport],
    journal: Sequence[str],
) -> str:
    """A draft for people to complete: what happened, when, what was decided; what only they know is asked for."""
    lines = [
        f"# Post-mortem (draft): corruption of {service}",
        "",
        f"Why the recovery was started: {reason}",
        "",
        "## What was damaged",
        *(f"- {at.member}: {one.kind} {one.relation}: {one.told}" for at in found.members for one in at.damaged),
        *(f"- {each.clause}: {each.evidence}" for each in found.queries if each.ok is False),
        f"- Last good moment: {found.last_good or 'not known'} ({found.reason})",
        f"- Newest backup: {found.backup or 'not verified'}",
        "",
        "## What was done",
        f"- Repair: {found.repair}",
        *(f"- {step.started:%H:%M:%S} {step.title}: {step.outcome}. {step.detail}" for step in steps),
        "",
        "## What was decided",
        *(f"- {each.at:%H:%M:%S} {each.question} {each.answer} by {each.by}. {each.reason}" for each in decisions),
        "",
        "## Journal",
        *(f"    {line}" for line in journal),
        "",
        "## For people to complete",
        "- How the damage came about (disk, memory, software, a person):",
        "- When it could have been seen first, and by which alarm:",
        "- What is changed so that it does not come again, by whom, until when:",
    ]
    return "\n".join(lines) + "\n"
