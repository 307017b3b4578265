"""Node control, names, poolers, proxies and applications: what of them would not work when it counts."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.ready import Finding, Pooler
from schemas.rejoin import FolderFacts
from schemas.routes import PgBouncerRoute
from workflows.policy.ready_sight import Sight, by_what, error, graded, seen_from, warning
from workflows.policy.rejoin import ROOM

LOGIN_RETRY_S = 1.0
"""PgBouncer's own default of server_login_retry is 15 s (its manual, "Connection sanity checks, timeouts")."""
CONNECT_S = 5.0
WAIT_S = 30.0
"""Of clients at a pooler that is paused; query_wait_timeout is 120 s by default, and 0 waits for ever."""


def judge(sight: Sight) -> Iterator[Finding]:
    yield from _controls(sight)
    yield from _folders(sight)
    yield from _names(sight)
    for route in sight.service.gates():
        if isinstance(route, PgBouncerRoute):
            yield from _pooler(sight, route)
    yield from _others(sight)


def _controls(sight: Sight) -> Iterator[Finding]:
    everywhere = len(sight.views)
    for member in sight.service.members:
        told = by_what((view.region, view.controls.get(member.name, "")) for view in sight.views)
        for why, regions in told.items():
            yield graded(
                sight.may_lead(member.name),
                "node-control",
                member.name,
                f"its node control does not work{seen_from(regions, everywhere)}: {why}",
                "the node's owner must mend it, or correct its `control` in the topology",
            )


def _folders(sight: Sight) -> Iterator[Finding]:
    """What a rejoin by rewind or by a copy would find on each node."""
    for member in sight.service.members:
        if member.data is None:
            yield warning(
                "data-folder",
                member.name,
                "its `data` is not declared, so that Lifeboat can't bring it back by itself",
                "the topology's owner should declare `data` (and `control`) for it",
            )
    for view in sight.views:
        for name, why in view.folder_errors.items():
            yield error(
                "data-folder",
                name,
                f"its data folder can't be worked on: {why}",
                "the node's owner must mend it, or correct its `data` in the topology",
            )
        for folder in view.folders.values():
            yield from _folder(sight, folder)


def _folder(sight: Sight, folder: FolderFacts) -> Iterator[Finding]:
    name, lead, own = folder.member, sight.lead, sight.servers.get(folder.member)
    major = lead.version // 10000 if lead is not None else 0
    if major and folder.programs != major:
        yield error(
            "data-folder",
            name,
            f"it has PostgreSQL {folder.programs or 'none'} at its `bin`, and {sight.leader} runs {major}",
            "the node's owner must install that there, or correct `data.bin`",
        )
    if folder.begun and not (sight.engine and sight.engine.holder):
        yield error(
            "data-folder",
            name,
            f"a {folder.begun} has begun on it and not ended: it is good for a copy of the whole only",
            f"an operator must have it rejoined (`lifeboat run database-rejoin {sight.service.name}`, with {name})",
        )
    needed = int((lead.bytes if lead is not None else 0) * ROOM)
    # A copy frees what the folder holds. Where nobody counts that, the leader's size stands for it.
    freed = (own.bytes if own is not None else 0) or (lead.bytes if lead is not None and folder.major else 0)
    if folder.room_bytes + freed < needed:
        yield error(
            "disk-room",
            name,
            f"there is room for {(folder.room_bytes + freed) / 1e9:.1f} GB, and a copy of {sight.leader} takes"
            f" {needed / 1e9:.1f} GB",
            "the node's owner must make room: it could not be rebuilt",
        )


def _names(sight: Sight) -> Iterator[Finding]:
    everywhere = len(sight.views)
    wanted = {view.region: view.addresses.get(sight.leader, "") for view in sight.views}
    unanswered = by_what(
        (view.region, f"{each.server}\n{each.error}") for view in sight.views for each in view.names if each.error
    )
    for what, regions in unanswered.items():
        server, _, why = what.partition("\n")
        regions = list(dict.fromkeys(regions))
        yield error(
            "name",
            server,
            f"it does not answer{seen_from(regions, everywhere)}: {why}",
            "its owner must bring it back: a run is not done with the names before every server has them",
        )
    wrong = by_what(
        (each.server, f"{each.record}\n{', '.join(each.addresses) or 'nowhere'}")
        for view in sight.views
        for each in view.names
        if not each.error and wanted[view.region] and each.addresses != [wanted[view.region]]
    )
    for what, servers in wrong.items():
        record, _, leads = what.partition("\n")
        yield error(
            "name",
            record,
            f"it leads to {leads} at {', '.join(dict.fromkeys(servers))}, and not to {sight.leader}",
            "the zone's owner must look why; a failover or switchover leads it on",
        )


def served_ttls(sight: Sight) -> dict[str, int]:
    """Record → its longest TTL as it is served: clients keep it for so long, whatever is declared."""
    found: dict[str, int] = {}
    for view in sight.views:
        for each in view.names:
            found[each.record] = max(found.get(each.record, 0), each.ttl_s)
    return found


def _pooler(sight: Sight, route: PgBouncerRoute) -> Iterator[Finding]:
    seen = {view.region: each for view in sight.views for each in view.poolers if each.route == route.name}
    for why, regions in by_what((region, each.error) for region, each in seen.items()).items():
        yield error(
            "pooler",
            route.name,
            f"it can't be led{seen_from(regions, len(sight.views))}: {why}",
            "its owner must mend it: its clients could neither be held nor led on",
        )
    well = next((each for each in seen.values() if not each.error), None)
    if well is not None:
        yield from _settings(sight, route, well)


def _settings(sight: Sight, route: PgBouncerRoute, pooler: Pooler) -> Iterator[Finding]:
    admins = [each.strip() for each in pooler.config.get("admin_users", "").split(",")]
    if route.admin_user not in admins:
        yield error(
            "pooler",
            route.name,
            f"{route.admin_user} is none of its admin_users, so that it may look and not act",
            "its owner must name it there",
        )
    leader = sight.service.member(sight.leader)
    for name, pool in pooler.databases.items():
        if (pool.host, pool.port) != (leader.host, leader.port):
            yield error(
                "pooler-leads",
                route.name,
                f"{name} leads to {pool.host}:{pool.port}, and not to {sight.leader} at {leader.host}:{leader.port}",
                "its owner must look why; a failover or switchover leads it on",
            )
        if pool.mode == "statement":
            yield error(
                "pooler-mode",
                route.name,
                f"{name} pools by statement, which refuses transactions, and so the write that verifies a route",
                "its owner must pool by transaction",
            )
        elif pool.mode == "session" and "pool_mode=session" not in route.databases[name]:
            yield warning(
                "pooler-mode",
                route.name,
                f"{name} pools by session: a switchover can't pause its clients, which are cut off instead",
                "its owner should pool by transaction, or the topology's say `pool_mode=session` if it is meant",
            )
    for setting, most, what in (
        ("server_login_retry", LOGIN_RETRY_S, "so long it leaves a server alone that it could not log in to"),
        ("server_connect_timeout", CONNECT_S, "so long it waits for a server that does not answer"),
    ):
        value = _seconds(pooler.config.get(setting, ""))
        if value is not None and (value > most or (value == 0 and setting == "server_connect_timeout")):
            yield warning(
                "pooler-settings",
                route.name,
                f"{setting} is {value:g} s: {what}",
                f"its owner should set it to {most:g} s at most",
            )

    waits = _seconds(pooler.config.get("query_wait_timeout", ""))
    if waits is not None and 0 < waits < WAIT_S:
        yield warning(
            "pooler-settings",
            route.name,
            f"query_wait_timeout is {waits:g} s: clients that wait out a switchover's pause for longer are cut off",
            f"its owner should set it to {WAIT_S:g} s at least",
        )


def _seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _others(sight: Sight) -> Iterator[Finding]:
    everywhere = len(sight.views)
    for route in sight.service.gates():
        told = by_what((view.region, view.proxies.get(route.name, "")) for view in sight.views)
        bound = sum(route.name in view.proxies for view in sight.views)
        for why, regions in told.items():
            yield error(
                "proxy",
                route.name,
                f"it can't be led{seen_from(regions, bound)}: {why}",
                "its owner must mend it: its clients could neither be held nor led on",
            )
    for application in sight.service.told():
        told = by_what((view.region, view.applications.get(application.name, "")) for view in sight.views)
        bound = sum(application.name in view.applications for view in sight.views) or everywhere
        for why, regions in told.items():
            yield error(
                "application",
                application.name,
                f"it can't be told who leads{seen_from(regions, bound)}: {why}",
                "its owner must mend it, or correct the route in the topology",
            )
