"""Is a cache ready? Facts in, findings out: what would break or weaken a failover or a planned move.

docs/ready.md has each check, why it matters, and its remedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from schemas.cache import CacheService
from schemas.cache_facts import CacheFacts, CacheSeen, SentinelFacts
from schemas.orders import CacheEstate
from schemas.ready import CacheRegionView, EngineView, Finding
from workflows.policy.cache import leader_of, upstreams
from workflows.policy.cache_seen import merge_seen
from workflows.policy.ready import epoch_record, no_worker
from workflows.policy.ready_sight import error, graded, merged, warning


def judge_cache(estate: CacheEstate, views: Sequence[CacheRegionView], engine: EngineView | None) -> list[Finding]:
    """All that is wrong, errors first."""
    answering = [view.region for view in views]
    found = [no_worker(region) for region in estate.vantages if region not in answering]
    found += _declared(estate.service)
    if engine is not None:
        found += _engine(estate.service.name, engine)
    if views:
        seen = merge_seen([view.seen for view in views])
        found += epoch_record(estate.service.name, seen.record, seen.epoch_error)
        found += _servers(estate.service, seen)
        found += _sentinels(estate.service, seen)
        found += _passwords(sorted({name for view in views for name in view.open_to_all}))
    return merged(found)


def _declared(service: CacheService) -> Iterator[Finding]:
    for member in service.members:
        if member.control is None and member.priority:
            yield warning(
                "fence",
                member.name,
                "it has no `control`: once it is gone, nothing keeps it from coming back empty and wiping its replicas",
                "the topology's owner should declare how it is stopped and started",
            )
    if service.master.min_replicas == 0:
        yield error(
            "min-replicas",
            service.name,
            "the topology lets a master take writes that no replica has (master.min_replicas is 0), so that nobody can"
            " say what a failover loses",
            "the topology's owner must declare 1 at least",
        )


def _engine(name: str, engine: EngineView) -> Iterator[Finding]:
    if not engine.watched:
        yield error(
            "watch",
            name,
            "it is not watched: Sentinel would move the master, and no client that goes by name would follow",
            f"an operator must start it (`lifeboat watch start {name}`)",
        )
    if engine.holder:
        yield warning("busy", name, f"{engine.holder} works on it now", "wait for its end, or abort it")


def _servers(service: CacheService, seen: CacheSeen) -> Iterator[Finding]:
    leader, why = leader_of(service, seen)
    if leader is None:
        remedy = "an operator must find out who leads, or fail over (`lifeboat run cache-failover`)"
        yield error("leader", service.name, why, remedy)
    for facts in seen.members:
        if not facts.reachable:
            yield error("reached", facts.member, f"it is not reached: {facts.error}", "its owner must bring it back")
            continue
        yield from _settings(service, facts, leader)
    if leader is not None:
        yield from _replication(service, seen, leader)


def _settings(service: CacheService, facts: CacheFacts, leader: str | None) -> Iterator[Finding]:
    owner = "the server's owner must"
    if facts.cluster:
        yield error(
            "cluster-mode",
            facts.member,
            "`cluster-enabled` is on, and Sentinel does not manage Redis Cluster",
            f"{owner} turn it off, or do without Sentinel and without these procedures",
        )
    if not facts.aof and not facts.rdb:
        yield error(
            "persistence",
            facts.member,
            "it keeps nothing on disk: as a master that restarts it is empty, and wipes its replicas",
            f"{owner} set `appendonly yes`",
        )
    elif not facts.aof:
        yield warning(
            "persistence",
            facts.member,
            "it has no append-only file: a restart loses what was written since the last RDB file",
            f"{owner} set `appendonly yes`",
        )
    policy = service.master
    if (facts.min_replicas, facts.max_lag_s) != (policy.min_replicas, policy.max_lag_s):
        unsafe = facts.min_replicas == 0 or facts.max_lag_s == 0
        yield graded(
            unsafe or facts.member == leader,
            "min-replicas",
            facts.member,
            f"min-replicas-to-write is {facts.min_replicas} and min-replicas-max-lag {facts.max_lag_s}, declared are"
            f" {policy.min_replicas} and {policy.max_lag_s}"
            + (": cut off from its replicas it would go on acknowledging" if unsafe else ""),
            "the next run of any procedure puts it right by itself; until then its owner should",
        )
    if leader is None:
        return
    serves = service.member(facts.member).region == service.member(leader).region
    if serves and service.member(facts.member).priority and facts.priority == 0:
        yield warning(
            "replica-priority",
            facts.member,
            "its replica-priority is 0: Sentinel never elects it, and the topology says it may be",
            "the next run of any procedure puts it right by itself; until then its owner should",
        )
    if not serves and (facts.priority or facts.announced):
        yield error(
            "replica-priority",
            facts.member,
            f"it stands by in another region, and Sentinel here may elect it (priority {facts.priority}, announced"
            f" {'yes' if facts.announced else 'no'}), or demote it once it was promoted",
            f"{owner} set replica-priority 0 and replica-announced no; the next run does by itself",
        )


def _replication(service: CacheService, seen: CacheSeen, leader: str) -> Iterator[Finding]:
    here = service.member(leader).region
    for name, upstream in upstreams(service, leader).items():
        facts = seen.of(name)
        if not facts.reachable:
            continue
        if facts.role != "replica" or not facts.link_up:
            yield error(
                "replication",
                name,
                f"it has no link to {facts.follows or 'a master'}, so that its data is old",
                "its owner must look at its log; a procedure's run leads it again",
            )
        elif facts.follows == leader and service.member(name).region != here:
            yield error(
                "replication",
                name,
                f"it follows {leader} directly from another region: a master that is cut off from its own region would"
                " go on acknowledging, since this one counts for min-replicas-to-write",
                f"its owner must let it follow {upstream}; a procedure's run does by itself",
            )
        elif facts.history != seen.of(leader).history:
            yield error(
                "replication",
                name,
                f"its history is another than {leader}'s",
                "its owner must find out whom it followed; a procedure's run leads it again",
            )


def _sentinels(service: CacheService, seen: CacheSeen) -> Iterator[Finding]:
    leader, _ = leader_of(service, seen)
    leader = leader or (seen.record.leader if seen.record is not None else service.home)
    region = service.member(leader).region
    found = {each.sentinel: each for each in seen.sentinels}
    owner = "the Sentinels' owner must"
    for sentinel in service.sentinels:
        facts = found[sentinel.name]
        if not facts.reachable:
            what = f"it is not reached: {facts.error}"
            yield error("reached", sentinel.name, what, f"{owner} bring it back")
        elif sentinel.region != region and facts.watches:
            yield error(
                "sentinels-agree",
                sentinel.name,
                f"it watches {facts.master}, and its region stands by: it could elect beside the others",
                f"{owner} let it forget the name (SENTINEL REMOVE {service.monitor.name})",
            )
        elif sentinel.region == region:
            yield from _watching(service, facts, leader, len(service.sentinels_of(region)))


def _watching(service: CacheService, facts: SentinelFacts, leader: str, declared: int) -> Iterator[Finding]:
    owner, monitor = "the Sentinels' owner must", service.monitor
    if facts.master != leader:
        yield error(
            "sentinels-agree",
            facts.sentinel,
            f"it names {facts.master or 'no master'}, and {leader} leads: clients that ask it go astray",
            f"{owner} set it to watch {leader}, or wait for the end of a failover",
        )
        return
    if facts.quorum_error:
        yield error("sentinel-quorum", facts.sentinel, facts.quorum_error, f"{owner} bring the others back")
    if facts.quorum != monitor.quorum or facts.others != declared - 1:
        yield warning(
            "sentinel-quorum",
            facts.sentinel,
            f"its quorum is {facts.quorum} and it knows {facts.others} others; declared are {monitor.quorum} and"
            f" {declared - 1}",
            f"{owner} set the quorum (SENTINEL SET), or let it look for the others anew (SENTINEL RESET)",
        )
    if abs(facts.down_after_s - monitor.down_after_s) > 0.001:
        yield warning(
            "sentinel-settings",
            facts.sentinel,
            f"down-after-milliseconds is {facts.down_after_s * 1000:.0f}, declared is"
            f" {monitor.down_after_s * 1000:.0f}: a failover is expected at another time than it comes",
            f"{owner} set it as declared",
        )


def _passwords(opened: Sequence[str]) -> Iterator[Finding]:
    for name in opened:
        yield error(
            "no-password",
            name,
            "it answers to anybody without a password",
            "its owner must set a password, or turn the default user off",
        )
