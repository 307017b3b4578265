"""How damage reads, in every view: who is damaged and where, since when, and what was done."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.damage import DamageEvidence, MemberDamage
from schemas.reports import Report
from schemas.restores import Proof
from schemas.words import instant, moment, span


def facts(report: Report) -> Iterator[tuple[str, str]]:
    """Name and text of what a reader asks next; what the run did not come to is left out."""
    found = report.damage
    assert found is not None
    for member in found.members:
        if member.damaged or member.failures:
            yield member.member, member_text(member)
    if whole := [each.member for each in found.members if each.whole]:
        yield "whole", ", ".join(whole)
    for member in found.members:
        if member.error:
            yield "not checked", f"{member.member}: {member.error}"
    if found.backup:
        yield "newest backup", found.backup
    if found.last_good is not None:
        yield "last good", f"{instant(found.last_good)} UTC: {found.reason}"
    if found.repair:
        yield "repair", found.repair
    if report.followed_by:
        yield "its runs", ", ".join(report.followed_by)
    if report.outcome != "planned":
        yield "took", f"{span(report.machine_s)}, and {span(report.waiting_s)} of waiting for a person"


def member_text(member: MemberDamage) -> str:
    """`heap counting.public.archived, index …`, and the pages whose checksum its server saw fail."""
    parts = [f"{one.kind} {one.relation}: {one.told}" for one in member.damaged]
    if member.failures:
        last = f", the last at {moment(member.since)}" if member.since else ""
        parts.append(f"{member.failures} checksum failure{'s' if member.failures > 1 else ''} seen by its server{last}")
    return "; ".join(parts)


def headline(found: DamageEvidence) -> tuple[str, str]:
    """What is damaged, in a few words, and of how many."""
    damaged = [each for each in found.members if each.damaged]
    relations = {one.relation for each in damaged for one in each.damaged}
    if damaged:
        what = f"{len(relations)} relation{'s' if len(relations) > 1 else ''}"
        return what, f"damaged on {', '.join(each.member for each in damaged)}"
    if wrong_answers(found):
        return "rows", "are wrong; no page is damaged"
    if found.members:
        return "none", f"damage found on {len(found.members)} members"
    return "–", "nothing was looked at"


def wrong_answers(found: DamageEvidence) -> list[Proof]:
    return [each for each in found.queries if each.ok is False]
