"""Which standby may be promoted (safety.md, "Promotion" and invariant 5): behind no reachable voter, or none at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from schemas.decisions import Choice
from schemas.facts import MemberFacts, lsn_text
from schemas.topology import DatabaseService


def choose_candidate(
    service: DatabaseService,
    suspect: str,
    facts: Sequence[MemberFacts],
    *,
    voters: Sequence[str],
    requested: str | None = None,
    disconnected: Collection[str] | None = None,
    recorded: str | None = None,
) -> Choice:
    """The furthest standby that may be promoted, then a voter, then the declared order; outside the leader's region
    only where nobody inside is fit, or one was asked for, and never where the topology says so.

    `voters` are those of every synchronous set that binds. `disconnected`: only these, whose position no longer moves.
    `requested` must satisfy the same rules, or there is no candidate. `recorded` is the candidate that an earlier run
    wrote into the epoch record: if it leads already it is the only one, since another would be a second primary.
    """
    read = {each.member: each for each in facts if each.reachable and each.member != suspect}
    system = system_identifier(suspect, facts)
    leading = [name for name, each in read.items() if not each.in_recovery and each.system_identifier == system]
    if leading:
        return _adopt(service, suspect, leading, recorded, requested)
    if requested is not None and requested not in [member.name for member in service.members]:
        return Choice(candidate=None, reason=f"{requested} was asked for, and is not a member")

    passed: dict[str, str] = {}
    fit: list[MemberFacts] = []
    for member in service.members:
        if member.name == suspect:
            continue
        found = read.get(member.name)
        why = _unfit(service, suspect, member.name, found, system, disconnected)
        if why is None and found is not None:
            why = _behind_a_voter(found, [read[name] for name in voters if name in read], system)
        if why is None and found is not None:
            fit.append(found)
        elif why is not None:
            passed[member.name] = why
    newest = max((each.timeline for each in fit), default=0)
    for each in [each for each in fit if each.timeline < newest]:
        passed[each.member] = f"is on timeline {each.timeline}, another is on {newest}"
        fit.remove(each)

    if requested is not None and requested not in [each.member for each in fit]:
        why = passed.get(requested, "is the primary that is to be replaced")
        return Choice(candidate=None, reason=f"{requested} was asked for, but it {why}", passed_over=passed)
    if not fit:
        told = "; ".join(f"{name} {why}" for name, why in passed.items())
        return Choice(
            candidate=None, reason=f"no member may be promoted: {told or 'there is no other'}", passed_over=passed
        )
    promotable = service.may_be_promoted()
    fit.sort(
        key=lambda each: (
            is_across(service, suspect, each.member),
            -each.position,
            each.member not in voters,
            promotable.index(each.member),
        )
    )
    chosen = next((each for each in fit if each.member == requested), fit[0])
    for each in fit:
        if each is not chosen:
            passed[each.member] = _less_preferred(service, suspect, each, chosen, requested)
    kind = "a voter" if chosen.member in voters else "asynchronous"
    away = is_across(service, suspect, chosen.member)
    if away:
        kind += f", in {service.member(chosen.member).region}"
        if requested is None:
            kind += f" since nobody in {service.member(suspect).region} may lead"
    open_to = [
        name
        for name in _open_to(service, read, system, newest)
        if requested is None and (away or not is_across(service, suspect, name))
    ]
    return Choice(
        candidate=chosen.member,
        reason=f"{chosen.member} ({kind}) at {where(chosen)} is behind no voter that is reached",
        passed_over=passed,
        open_to=sorted(open_to),
    )


def is_across(service: DatabaseService, suspect: str, name: str) -> bool:
    """Whether a member is in another region than the primary that is to be replaced."""
    return service.member(name).region != service.member(suspect).region


def system_identifier(suspect: str, facts: Sequence[MemberFacts]) -> str | None:
    """The suspect's system identifier, or else that of most members; None when they disagree or none is read."""
    reached = [each for each in facts if each.reachable and each.system_identifier]
    for each in reached:
        if each.member == suspect:
            return each.system_identifier
    ranked = Counter(each.system_identifier for each in reached).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def reach_of(facts: MemberFacts) -> int:
    """How far the member's WAL goes, bytes: what a standby holds, or what a primary has written."""
    return max(facts.position, facts.written or 0)


def is_behind(one: MemberFacts, other: MemberFacts) -> bool:
    """Whether `other` may hold a commit that `one` does not.

    Both timeline and position count: a further position on an older timeline has diverged, or its timeline was
    read late, and neither is reason to throw it away.
    """
    return other.timeline > one.timeline or reach_of(other) > reach_of(one)


def where(facts: MemberFacts) -> str:
    return f"{lsn_text(reach_of(facts))} on timeline {facts.timeline}"


def _unfit(
    service: DatabaseService,
    suspect: str,
    name: str,
    facts: MemberFacts | None,
    system: str | None,
    disconnected: Collection[str] | None,
) -> str | None:
    declared = name in service.may_be_promoted()
    if facts is None:
        # The final look is at those that were disconnected; one that follows another standby was not looked at.
        return "is not reached" if declared or disconnected is None else "is not declared as a candidate"
    if system is None:
        return "can't be told to be of this cluster: the members' system identifiers disagree"
    if facts.system_identifier != system:
        return f"is of another cluster (system identifier {facts.system_identifier or 'unknown'}, not {system})"
    if not declared:
        return "is not declared as a candidate"
    if service.failover.cross_region == "never" and is_across(service, suspect, name):
        region = service.member(name).region
        return f"is in {region}, and the topology lets no failover go there (failover.cross_region is `never`)"
    if disconnected is not None and name not in disconnected:
        return "is not disconnected from the old primary"
    if not facts.position or not facts.timeline:
        return "doesn't tell its position and timeline"
    return None


def _behind_a_voter(facts: MemberFacts, voters: Sequence[MemberFacts], system: str | None) -> str | None:
    for voter in voters:
        if voter.system_identifier == system and is_behind(facts, voter):
            return f"at {where(facts)} is behind the voter {voter.member} at {where(voter)}"
    return None


def _adopt(
    service: DatabaseService, suspect: str, leading: list[str], recorded: str | None, requested: str | None
) -> Choice:
    passed = {
        member.name: f"can't be promoted: {', '.join(leading)} leads already"
        for member in service.members
        if member.name != suspect and member.name not in leading
    }
    if leading == [recorded] and requested in (None, recorded):
        reason = f"{recorded} leads already: an earlier run recorded it as its candidate and was cut off"
        return Choice(candidate=recorded, reason=reason, passed_over=passed, leads=True)
    if leading == [recorded]:
        reason = f"{requested} was asked for, but {recorded} leads already; start again without naming a candidate"
    else:
        reason = (
            f"{', '.join(leading)} leads beside {suspect}, and no run recorded it: promoting another would make one"
            " primary more; a person must find out which of them clients write to, and stop the other"
        )
    return Choice(candidate=None, reason=reason, passed_over=passed)


def _open_to(service: DatabaseService, read: Mapping[str, MemberFacts], system: str | None, timeline: int) -> list[str]:
    """A primary that is alive goes on writing until it is cut off, so that who is furthest may change until then."""
    return [
        name
        for name in service.may_be_promoted()
        if name in read and (read[name].system_identifier, read[name].timeline) == (system, timeline)
    ]


def _less_preferred(
    service: DatabaseService, suspect: str, facts: MemberFacts, chosen: MemberFacts, requested: str | None
) -> str:
    if chosen.member == requested:
        return f"could be promoted, but {requested} was asked for"
    if is_across(service, suspect, facts.member) and not is_across(service, suspect, chosen.member):
        ahead = facts.position - chosen.position
        further = f", though {ahead} bytes further than {chosen.member}" if ahead > 0 else ""
        return f"is in {service.member(facts.member).region}, and only taken if nobody nearer is fit{further}"
    if facts.position < chosen.position:
        return f"at {where(facts)} is behind {chosen.member}"
    return f"is as far as {chosen.member}, which is preferred"
