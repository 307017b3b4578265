"""Is the master dead, who comes next, and what is lost at most: of a cache that nobody moved on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from schemas.cache import CacheService
from schemas.cache_facts import CacheFacts, CacheSeen
from schemas.decisions import Choice, Death, Go, Verdict
from schemas.facts import Probe


def moved_to(service: CacheService, seen: CacheSeen, suspect: str) -> str | None:
    """Whom Sentinel has already promoted instead of the suspect: by its role, and by most Sentinels that answer."""
    region = service.member(suspect).region
    there = {each.name for each in service.sentinels_of(region)}
    named = [each.master for each in seen.sentinels if each.watches and each.sentinel in there]
    for facts in seen.masters():
        if facts.member != suspect and named.count(facts.member) * 2 > len(named):
            return facts.member
    return None


def judge_master(service: CacheService, suspect: str, votes: Sequence[Probe], seen: CacheSeen) -> Death:
    """`dead`: a quorum of regions fails at it, and either every replica that answers has lost it, or enough Sentinels
    say that it is down. `wait`: they may say so yet. `ask`: it is unreachable, and somebody still hears it.
    """
    detection = service.detection
    told = {vote.region: vote.outcome for vote in votes}
    failed = [vote for vote in votes if vote.outcome in ("refused", "timeout")]
    testimony = {each.member: _hears(each, suspect) for each in seen.members if each.member != suspect}
    region = service.member(suspect).region
    there = {each.name for each in service.sentinels_of(region)}
    sentinels = [each for each in seen.sentinels if each.watches and each.sentinel in there]
    down = [each.sentinel for each in sentinels if {"s_down", "o_down"} & set(each.flags)]
    given = {"votes": told, "testimony": testimony | {name: "says that it is down" for name in down}}
    itself = seen.of(suspect)
    if itself.reachable and itself.role == "replica":
        # Somebody has ordered it: the Sentinels call it down, and elect, once they have seen it for long enough.
        reason = f"{suspect} is a replica of {itself.follows or 'nobody'}, and nobody leads"
        return Death(state="wait", reason=reason, wait_s=0.5, **given)
    if len(failed) < detection.quorum:
        alive = any(vote.outcome == "alive" for vote in votes)
        reason = f"{len(failed)} of {len(votes)} regions fail at it, and a quorum is {detection.quorum}"
        return Death(state="alive" if alive else "ask", reason=reason, **given)
    followers = [each for each in seen.members if each.reachable and each.follows == suspect]
    if followers and not any(each.link_up for each in followers):
        reason = f"{len(failed)} regions fail at it, and all {len(followers)} replicas have lost it"
        return Death(state="dead", reason=reason, **given)
    fresh = [each.member for each in followers if each.link_up and 0 <= each.silent_s <= service.master.max_lag_s]
    if len(down) >= service.monitor.quorum and not fresh:
        return Death(state="dead", reason=f"{len(failed)} regions and {len(down)} Sentinels say so", **given)
    if sentinels:
        left = service.monitor.down_after_s
        return Death(state="wait", reason="the Sentinels do not call it down yet", wait_s=min(left, 0.5), **given)
    if not followers:
        return Death(state="ask", reason="no replica and no Sentinel can be asked about it", **given)
    hearing = [each.member for each in followers if each.link_up]
    return Death(state="ask", reason=f"{', '.join(hearing)} may still hear it, and no Sentinel answers", **given)


def _hears(facts: CacheFacts, suspect: str) -> str:
    if not facts.reachable:
        return "not reached"
    if facts.role != "replica" or facts.follows != suspect:
        return f"follows {facts.follows}" if facts.follows else "is a master"
    return f"its link is up, {facts.silent_s} s silent" if facts.link_up else f"its link is down {facts.link_down_s} s"


def choose_next(service: CacheService, seen: CacheSeen, suspect: str, requested: str | None = None) -> Choice:
    """Who would be furthest: in the suspect's region, else in the others. An empty one is nobody's successor."""
    region = service.member(suspect).region
    passed: dict[str, str] = {}
    able: dict[bool, list[CacheFacts]] = {True: [], False: []}
    most = max((each.keys for each in seen.members if each.reachable and each.member != suspect), default=0)
    history = history_of(service, seen, suspect)
    for facts in seen.members:
        if facts.member == suspect:
            continue
        why = _unfit(service, facts, most, history)
        if requested is not None and facts.member != requested:
            continue
        if why is None:
            able[service.member(facts.member).region == region].append(facts)
        else:
            passed[facts.member] = why
    for here in (True, False):
        if able[here] and (here or service.failover.cross_region != "never"):
            # As Sentinel chooses (sentinel.c, compareSlavesForPromotion): priority, what it has, the lower run id.
            best = min(able[here], key=lambda each: (service.member(each.member).priority, -each.offset, each.run_id))
            where = "" if here else f", in {service.member(best.member).region}"
            return Choice(
                candidate=best.member,
                reason=f"{best.member} has the most of it, {best.offset} bytes{where}",
                passed_over=passed,
                open_to=[each.member for each in able[here] if each.member != best.member],
            )
    told = "; ".join(f"{name} {why}" for name, why in passed.items())
    return Choice(candidate=None, reason=told or "there is no other member", passed_over=passed)


def history_of(service: CacheService, seen: CacheSeen, suspect: str, last: CacheFacts | None = None) -> str:
    """The line of descent of what the suspect wrote: by itself, else that of most replicas that followed it."""
    if last is not None and last.history:
        return last.history
    itself = seen.of(suspect)
    if itself.reachable and itself.role == "master":
        return itself.history
    told = [each.history for each in seen.members if each.reachable and each.role == "replica" and each.history]
    return max(sorted(set(told)), key=told.count, default="")


def _unfit(service: CacheService, facts: CacheFacts, most_keys: int, history: str) -> str | None:
    if not facts.reachable:
        return f"is not reached: {facts.error}"
    if facts.role != "replica":
        return "is a master of its own, and nobody knows what it has"
    if history and facts.history != history:
        return "has another history"
    if service.member(facts.member).priority == 0:
        return "is never promoted (priority 0)"
    if facts.loading or facts.syncing:
        return "has not its data yet"
    if most_keys and not facts.keys:
        return "is empty, and others are not"
    return None


def lost_at_most(
    service: CacheService, seen: CacheSeen, suspect: str, candidate: str | None, last: CacheFacts | None
) -> Verdict:
    """What the suspect may have acknowledged that the candidate has not.

    A master with `min-replicas-to-write` stops once fewer replicas have acknowledged its stream within `max_lag_s`,
    which it looks at once a second: so whatever it acknowledged earlier was on enough of them. That says something of
    the candidate only if those that are out of reach now could not have been enough by themselves.
    """
    policy = service.master
    if candidate is None:
        return _unknown("nobody would take over")
    if policy.min_replicas == 0:
        return _unknown("masters take writes without any replica (master.min_replicas is 0)")
    if last is not None and (last.min_replicas, last.max_lag_s) != (policy.min_replicas, policy.max_lag_s):
        told = f"{suspect} ran with min-replicas-to-write {last.min_replicas}, max-lag {last.max_lag_s}"
        return _unknown(f"{told}, and not as declared")
    if seen.of(suspect).reachable and seen.of(suspect).role == "master":
        return _unknown(f"{suspect} lives, and may acknowledge until its last replica has left it")
    if seen.of(suspect).reachable:
        return _unknown(f"{suspect} took writes beside {candidate} until it was turned around")
    ours = seen.of(candidate)
    direct = {each.member for each in last.replicas} if last is not None else set(_near(service, suspect))
    strangers = direct - set(service.member_names())
    others = [each for each in seen.members if each.member not in (suspect, candidate)]
    away = [each.member for each in others if each.member in direct and not _comparable(each, ours)]
    if len(away) + len(strangers) >= policy.min_replicas:
        who = ", ".join([*away, *sorted(strangers)])
        return _unknown(f"{who} may have what {candidate} has not, and can't be asked")
    # One that was promoted already may be ahead by what it has written since.
    behind = [each.member for each in others if each.offset > ours.offset and ours.role == "replica"]
    if [name for name in behind if name not in away]:
        return _unknown(f"{', '.join(behind)} has more than {candidate}")
    # Redis counts a replica's silence in whole seconds, and looks once a second (tried: up to 3.2 s with max-lag 2).
    seconds = float(policy.max_lag_s + 2)
    most = max(last.offset - ours.offset, 0) if last is not None and ours.role == "replica" else None
    known = f"; {most} bytes of what it had when it was last seen are missing" if most is not None else ""
    return Verdict(
        kind="bounded",
        at_most_s=seconds,
        reason=f"a master stops {seconds:g} s after its last replica; writes acknowledged by WAIT are on one{known}",
    )


def after_election(service: CacheService, seen: CacheSeen, suspect: str, elected: str, had: int) -> Verdict | None:
    """What is known worse once somebody was elected: "unknown" where another of those that were asked had more.

    `had`: the offset up to which the new master has the old history; -1: not known. None: as it was.
    """
    ours = seen.of(elected)
    before = ours.history if ours.role == "replica" else ours.history_before
    # One that follows the new master already counts what that has written since.
    others = [each for each in seen.members if each.reachable and each.member not in (suspect, elected)]
    more = [each.member for each in others if each.history == before and each.offset > had >= 0]
    if more:
        return _unknown(f"{elected} was elected, and {', '.join(more)} had more")
    return None


def _unknown(reason: str) -> Verdict:
    return Verdict(kind="unknown", reason=reason)


def _comparable(facts: CacheFacts, candidate: CacheFacts) -> bool:
    """Whether what this member has can be compared with what the candidate has."""
    ours = {candidate.history, candidate.history_before} - {""}
    return facts.reachable and not facts.loading and not facts.syncing and facts.history in ours


def _near(service: CacheService, suspect: str) -> list[str]:
    return [each.name for each in service.members_of(service.member(suspect).region)]


def may_fail_over(
    service: CacheService,
    suspect: str,
    death: Death,
    choice: Choice,
    verdict: Verdict,
    *,
    approval: Literal["policy", "always"],
    automatic: bool,
    moved: bool,
) -> Go:
    """Whether a person is asked. What Sentinel has already done is followed: nobody could undo it."""
    if moved:
        return Go(action="go", reason=f"Sentinel has promoted {choice.candidate}: clients are led after it")
    if death.state == "alive" and automatic:
        return Go(action="stop", reason=f"no failover is needed: {death.reason}")
    if choice.candidate is None:
        return Go(action="refuse", reason=f"there is nothing to promote: {choice.reason}")
    asks = _asks(service, suspect, death, choice, approval)
    if verdict.kind == "unknown":
        what = "; ".join([f"how much is lost is not known: {verdict.reason}", *asks])
        return Go(action="refuse", reason=f"{what}; only an override on record goes on")
    if verdict.at_most_s is not None and verdict.at_most_s > service.failover.max_loss_s:
        asks.insert(
            0, f"up to {verdict.at_most_s:g} s of writes may be lost, and {service.failover.max_loss_s:g} may be"
        )
    if asks:
        return Go(action="ask", reason="; ".join(asks))
    return Go(action="go", reason=f"{suspect} is dead, loss {verdict.text()}: the policy asks nobody")


def _asks(service: CacheService, suspect: str, death: Death, choice: Choice, approval: str) -> list[str]:
    asks: list[str] = []
    if death.state == "alive":
        asks.append(f"{suspect} is alive: going on stops it")
    elif death.state != "dead":
        asks.append(f"{suspect} is not known to be dead: {death.reason}")
    across = choice.candidate and service.member(choice.candidate).region != service.member(suspect).region
    if across and service.failover.cross_region == "ask":
        asks.append(f"{choice.candidate} is in {service.member(str(choice.candidate)).region}")
    if not service.failover.automatic:
        asks.append("the topology lets no failover of this cache happen without a person")
    if approval == "always":
        asks.append("whoever started the run wants it approved")
    return asks


def first_failure(votes: Sequence[Probe]) -> datetime | None:
    """When a region first failed at it."""
    return min((vote.at for vote in votes if vote.outcome in ("refused", "timeout")), default=None)
