"""What is wrong with the servers: whether each is reached, what it is, who follows whom, and who may do what."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.ready import Finding, Server
from workflows.policy.ready_settings import hot_standby_off
from workflows.policy.ready_settings import judge as settings
from workflows.policy.ready_sight import Sight, by_what, error, graded, warning

OLDEST = 150000
"""server_version_num of PostgreSQL 15: rights on parameters came with it (docs/adr/0027-least-privilege.md)."""
DISABLED = "Hot standby mode is disabled"
"""What a standby says that takes no sessions (PostgreSQL 15, postmaster.c)."""


def judge(sight: Sight) -> Iterator[Finding]:
    yield from _reached(sight)
    yield from _kinds(sight)
    for server in sight.standbys:
        yield from _replication(sight, server)
    for server in sight.reached:
        yield from settings(sight, server)
    yield from _rights(sight)


def not_reached(name: str, why: str, *, grave: bool, regions: str = "") -> Finding:
    remedy = (
        f"its owner should look at it; one that is down comes back by `lifeboat run database-rejoin … --member {name}`"
    )
    return graded(grave, "reached", name, f"it is not reached{regions}: {why}", remedy)


def _reached(sight: Sight) -> Iterator[Finding]:
    for member in sight.service.members:
        missed = {
            view.region: each.seen.error
            for view in sight.views
            for each in view.servers
            if each.seen.member == member.name and not each.seen.reachable
        }
        if any(DISABLED in why for why in missed.values()):
            yield hot_standby_off(member.name)
        elif missed:
            regions = "" if len(missed) == len(sight.views) else f" from {', '.join(missed)}"
            grave = sight.matters(member.name) and not regions
            why = " ".join(next(iter(missed.values())).split())
            yield not_reached(member.name, why, grave=grave, regions=regions)


def _kinds(sight: Sight) -> Iterator[Finding]:
    model = sight.lead or next(iter(sight.reached), None)
    for server in sight.reached:
        name = server.seen.member
        assert model is not None
        if server.seen.system_identifier != model.seen.system_identifier:
            yield error(
                "same-system",
                name,
                f"its system identifier is not that of {model.seen.member}: it is another cluster's server",
                f"its owner must rebuild it from {model.seen.member}, or take it out of the topology",
            )
        if server.version < OLDEST:
            yield error(
                "version",
                name,
                f"it runs PostgreSQL {_major(server)}: Lifeboat needs 15 or newer",
                "its owner must upgrade it",
            )
        elif _major(server) != _major(model):
            yield error(
                "version",
                name,
                f"it runs PostgreSQL {_major(server)}, and {model.seen.member} {_major(model)}, and nothing replicates"
                " between them",
                "its owner must bring all members to the same major version",
            )


def _major(server: Server) -> int:
    return server.version // 10000


def _replication(sight: Sight, server: Server) -> Iterator[Finding]:
    seen, name = server.seen, server.seen.member
    upstream = sight.upstream_of(name)
    remedy = "its owner must let it follow that one (primary_conninfo), its host written as in the topology"
    if upstream is not None and name != sight.leader:
        wanted = f"{upstream.host}:{upstream.port}"
        if seen.follows != wanted:
            yield error(
                "upstream",
                name,
                f"it follows {seen.follows or 'nobody'}, and should follow {upstream.name} at {wanted}",
                remedy,
            )
        elif seen.receiver is None or seen.receiver.status != "streaming":
            yield graded(sight.matters(name), "streaming", name, *_silent(sight, upstream.name, server))
    if server.application_name != name:
        yield graded(
            name in sight.service.synchronous.voters,
            "application-name",
            name,
            f"its primary knows it as {server.application_name}, and counts acknowledgements by that name",
            f"its owner must put application_name={name} into its primary_conninfo",
        )
    if server.password_in_conninfo:
        yield graded(
            sight.service.access.replication_passfile is None,
            "conninfo-password",
            name,
            "the password of replication stands in its primary_conninfo, which Lifeboat writes anew without one",
            "its owner must put it into a password file (`access.replication_passfile`), and change it",
        )
    if server.settings.get("recovery_target_timeline", "latest") != "latest":
        yield error(
            "timeline-target",
            name,
            f"recovery_target_timeline is {server.settings['recovery_target_timeline']}: it follows no new primary",
            "its owner must set it to latest, and restart it",
        )
    if server.replay_paused:
        yield graded(
            sight.matters(name),
            "replay",
            name,
            "its replay is paused: what it has received is not applied, and a promotion hangs on it",
            "its owner must find out who paused it, and resume it (pg_wal_replay_resume)",
        )


def _silent(sight: Sight, upstream: str, server: Server) -> tuple[str, str]:
    above = sight.servers.get(upstream)
    if above is not None and not above.seen.reachable:
        return f"it receives nothing, since {upstream}, which it follows, is not there", f"bring {upstream} back first"
    if above is not None and above.seen.timeline != server.seen.timeline:
        return (
            f"it receives nothing from {upstream}: it is on timeline {server.seen.timeline}, {upstream} on"
            f" {above.seen.timeline}",
            "its owner must have it rejoined, or rebuild it",
        )
    return f"it receives nothing from {upstream}", "its owner should look at its log"


# Rights


def _rights(sight: Sight) -> Iterator[Finding]:
    access = sight.service.access
    told = [(server.seen.member, what) for server in sight.reached for what in server.lacking]
    for what, members in by_what(told).items():
        yield lacks(access.user, what, members)
    for server in sight.reached:
        if server.superuser:
            yield warning(
                "superuser",
                server.seen.member,
                f"role {access.user} is a superuser, and needs to be none",
                "its owner should take it away (ALTER ROLE … NOSUPERUSER), and carry out lab/etc/lifeboat.sql",
            )
    source = sight.lead
    if source is None:
        return
    if source.replication_lacking:
        yield error(
            "replication-role",
            source.seen.member,
            f"role {access.replication_user} {source.replication_lacking}: no standby can follow",
            "its owner must give it LOGIN and REPLICATION",
        )
    if access.replication_passfile is None:
        yield warning(
            "replication-role",
            f"topology, services.{sight.service.name}.access",
            "no `replication_passfile` is declared: standbys that are led to a new primary log in without a password",
            "the topology's owner should declare it, where pg_hba.conf asks for one",
        )
    if source.rewind_lacking:
        yield error(
            "rewind-rights",
            source.seen.member,
            f"role {source.rewind_role} lacks EXECUTE on {', '.join(source.rewind_lacking)}: an old primary can only be"
            " rebuilt, not rewound",
            "its owner must carry out the last part of lab/etc/lifeboat.sql",
        )


def lacks(role: str, what: str, members: list[str]) -> Finding:
    return error(
        "rights",
        ", ".join(members),
        f"role {role} lacks {what}",
        "its owner must carry out lab/etc/lifeboat.sql",
    )
