"""Is a service ready? Facts in, findings out: what would break or weaken a failover, a rejoin or a switchover.

docs/ready.md has each check, why it matters, and its remedy.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from schemas.facts import EpochRecord
from schemas.orders import Estate
from schemas.ready import EngineView, Finding, RegionView
from schemas.takes import BackupView
from workflows.policy import ready_backups, ready_declared, ready_routes, ready_servers
from workflows.policy.names import FENCED, parse_names
from workflows.policy.quorum import SyncSet
from workflows.policy.ready_sight import Sight, error, graded, merged, regions_of, sight_of, warning

CLOCK_WARNING_S = 0.5
CLOCK_ERROR_S = 5.0
"""A clock further off than this is wrong; half a second already blurs which of two events was first."""


def judge(
    estate: Estate,
    views: Sequence[RegionView],
    engine: EngineView | None,
    *,
    machine_s: float,
    backups: BackupView | None = None,
) -> list[Finding]:
    """All that is wrong, errors first. `machine_s`: what the steps of a failover take by themselves."""
    sight = sight_of(estate, views, engine, backups)
    return merged(
        [
            *ready_declared.judge(sight, machine_s),
            *_workers(sight),
            *_engine(sight),
            *(_seen(sight, machine_s) if views else []),
            *(ready_backups.judge(sight) if views else []),
        ]
    )


def _seen(sight: Sight, machine_s: float) -> Iterator[Finding]:
    yield from _topologies(sight)
    yield from _secrets(sight)
    yield from _clocks(sight)
    yield from epoch_record(sight.service.name, sight.record, sight.epoch_error)
    yield from _leader(sight)
    yield from _synchronous_names(sight)
    yield from ready_servers.judge(sight)
    yield from ready_routes.judge(sight)
    for record, ttl_s in ready_routes.served_ttls(sight).items():
        declared = max(route.ttl_s for route in sight.service.dns_routes() if route.record == record)
        if ttl_s > declared and ttl_s + machine_s > sight.service.rto_s:
            yield ready_declared.late_name(sight.service, record, ttl_s, machine_s)


# Who works for it


def _workers(sight: Sight) -> list[Finding]:
    answering = [view.region for view in sight.views]
    return [no_worker(region) for region in regions_of(sight.estate) if region not in answering]


def no_worker(region: str) -> Finding:
    return error(
        "worker",
        region,
        "no worker answers there, so that nothing is seen or done from it",
        f"whoever runs Lifeboat must start one there (`lifeboat worker --region {region}`)",
    )


def _engine(sight: Sight) -> Iterator[Finding]:
    engine, name = sight.engine, sight.service.name
    if engine is None:
        return
    if not engine.watched:
        yield error(
            "watch",
            name,
            "it is not watched: nobody notices that its primary dies, and a voter that is lost stays in the set",
            f"an operator must start it (`lifeboat watch start {name}`)",
        )
    else:
        blind = [region for region in sight.estate.vantages if region not in engine.probing]
        left = len(sight.estate.vantages) - len(blind)
        if blind:
            yield graded(
                left < sight.service.detection.quorum,
                "watch",
                ", ".join(blind),
                f"the watch does not probe from there now: {left} of {len(sight.estate.vantages)} regions do,"
                f" {sight.service.detection.quorum} must agree",
                "whoever runs Lifeboat should look at the workers there; the watch goes on by itself once they answer",
            )
    if engine.holder:
        yield busy(name, engine.holder)


def busy(service: str, holder: str) -> Finding:
    return warning("busy", service, f"{holder} works on this service now", "wait for its end, or abort it")


def _topologies(sight: Sight) -> Iterator[Finding]:
    digests: dict[str, list[str]] = {}
    for view in sight.views:
        digests.setdefault(view.digest, []).append(view.region)
    if len(digests) > 1:
        told = "; ".join(f"{', '.join(regions)}: {digest}" for digest, regions in digests.items())
        yield error(
            "same-topology",
            ", ".join(view.region for view in sight.views),
            f"the workers' topology files declare it differently ({told}), and which one a run gets is chance",
            "whoever runs Lifeboat must give every worker the same file",
        )


def _secrets(sight: Sight) -> Iterator[Finding]:
    for view in sight.views:
        for reference, why in view.secrets.items():
            yield error(
                "secret",
                f"worker of {view.region}",
                f"{reference} can't be resolved: {why}",
                "whoever runs that worker must provide it, and restart the worker where it is a variable",
            )


def _clocks(sight: Sight) -> Iterator[Finding]:
    """All servers off by the same is the worker's own clock; one is the server's."""
    for view in sight.views:
        off = {each.seen.member: each.clock_s for each in view.servers if each.seen.reachable}
        unsure = {each.seen.member: each.round_trip_s / 2 for each in view.servers}
        own = -statistics.median(off.values()) if len(off) > 2 else 0.0
        if abs(own) > CLOCK_WARNING_S:
            yield _clock(f"worker of {view.region}", own)
        else:
            own = 0.0
        for name, seconds in off.items():
            if abs(seconds + own) > CLOCK_WARNING_S + unsure[name]:
                yield _clock(name, round(seconds + own, 0))


def _clock(where: str, seconds: float) -> Finding:
    return graded(
        abs(seconds) > CLOCK_ERROR_S,
        "clock",
        where,
        f"its clock is about {abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}, so that ages of commits and"
        " the order of events are wrong by that much",
        "the machine's owner must set it by NTP",
    )


# Epoch and leader


def epoch_record(service: str, record: EpochRecord | None, unreadable: str) -> list[Finding]:
    if unreadable:
        remedy = "its owner must bring it back: without it a failover takes a person's override"
        return [error("epoch-record", service, f"the epoch store can't be read: {unreadable}", remedy)]
    if record is None:
        return [
            error(
                "epoch-record",
                service,
                "there is no epoch record, so nobody knows who has to acknowledge",
                f"an operator must start the watch, which makes it (`lifeboat watch start {service}`)",
            )
        ]
    return []


def _leader(sight: Sight) -> Iterator[Finding]:
    leading = [server.seen.member for server in sight.reached if not server.seen.in_recovery]
    where, record = sight.service.name, sight.record
    if len(leading) > 1:
        yield error(
            "leader",
            ", ".join(leading),
            "each of them takes writes",
            "the servers' owner must stop all but the one that the record and the routes name, at once",
        )
    elif not leading:
        yield error("leader", where, "no member that is reached leads", "an operator must fail over, or start it")
    elif record is not None and record.leader != leading[0]:
        yield error(
            "leader",
            where,
            f"{leading[0]} leads, and the epoch record says {record.leader}",
            f"an operator must find out who promoted {leading[0]}, and correct the record by a failover to it",
        )
    if record is not None and record.candidate is not None and not (sight.engine and sight.engine.holder):
        yield error(
            "leader",
            where,
            f"the record of {record.run} chose {record.candidate} and was never completed: that run broke off",
            "an operator must look at its report, and start a failover, which goes on from there",
        )


def _synchronous_names(sight: Sight) -> Iterator[Finding]:
    lead, record = sight.lead, sight.record
    if lead is None:
        return
    names = lead.seen.synchronous_names
    parsed = parse_names(names)
    if parsed is None:
        yield error(
            "synchronous-names",
            sight.leader,
            f"synchronous_standby_names = {names} names no voters that can be counted, so no loss can be ruled out",
            "its owner must set it to `ANY n (names)`, or to nothing: the watch then keeps it",
        )
    elif FENCED in parsed[1]:
        yield error(
            "synchronous-names",
            sight.leader,
            "it is stalled: a run fenced it, and it acknowledges nothing",
            "an operator must end that run, or undo the stall (docs/runbooks/database_failover.md)",
        )
    elif record is not None and not SyncSet.of(record.w, record.voters).same(SyncSet.of(*parsed)):
        yield warning(
            "synchronous-names",
            sight.leader,
            f"synchronous_standby_names = {names or 'none'}, and the record says {record.w} of"
            f" {', '.join(record.voters) or 'none'}",
            "the watch brings them together by itself; look at it if they stay apart",
        )
