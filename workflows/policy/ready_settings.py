"""What is wrong with one server's settings (PostgreSQL 15, chapter 20, for what each does)."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.ready import Finding, Server
from workflows.policy.ready_sight import Sight, error, graded, warning

RECEIVER_TIMEOUT_S = 10.0
"""A standby denies its primary's death for half of its wal_receiver_timeout, and so holds up every failover."""
COPY_SENDERS = 2
"""What a pg_basebackup takes: one for the copy, one for the WAL of meanwhile."""
NEARLY_FULL = 0.9
DURABLE = {"on", "true", "yes", "1", "remote_apply"}
"""Values of synchronous_commit under which an acknowledged commit is flushed on the voters."""
LIMITS = (
    "max_connections",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "max_wal_senders",
    "max_worker_processes",
)
"""A standby pauses its replay, and does not start again, where one is lower than the primary's (section 27.4.3)."""


def judge(sight: Sight, server: Server) -> Iterator[Finding]:
    yield from _crash_safety(server)
    yield from _rewind(server)
    yield from receiver_timeout(server.seen.member, float(server.settings.get("wal_receiver_timeout", 0)) / 1000)
    if sight.may_lead(server.seen.member):
        yield from _as_leader(sight, server)
    yield from _room_for_followers(sight, server)
    yield from _slots(sight, server)
    yield from _archive(sight, server)
    yield from _limits(sight, server)
    if server is (sight.lead or next(iter(sight.reached))):
        yield from _overrides(sight, server)
    if server.pending:
        yield warning(
            "pending-restart",
            server.seen.member,
            f"{', '.join(server.pending)} will be another once it restarts, as every failover and rejoin makes it",
            "its owner should restart it now, or take the change back",
        )


def _crash_safety(server: Server) -> Iterator[Finding]:
    name, settings = server.seen.member, server.settings
    for setting in ("fsync", "full_page_writes"):
        if settings.get(setting) == "off":
            yield error(
                "durable",
                name,
                f"{setting} is off: after a crash its data may be broken, and what it acknowledged lost",
                "its owner must set it to on",
            )
    if settings.get("wal_level") == "minimal":
        yield error(
            "wal-level",
            name,
            "wal_level is minimal: nothing can replicate from it",
            "its owner must set it to replica, and restart it",
        )
    if settings.get("hot_standby") == "off":
        yield hot_standby_off(name)


def hot_standby_off(name: str) -> Finding:
    return error(
        "hot-standby",
        name,
        "hot_standby is off: as a standby it can't be asked how far it is, and is never promoted",
        "its owner must set it to on, and restart it",
    )


def _rewind(server: Server) -> Iterator[Finding]:
    if server.settings.get("wal_log_hints") == "off" and server.settings.get("data_checksums") == "off":
        yield error(
            "rewind-pages",
            server.seen.member,
            "neither wal_log_hints nor data checksums are on: pg_rewind refuses it, so that it can only be rebuilt",
            "its owner must set wal_log_hints to on, and restart it",
        )


def receiver_timeout(name: str, timeout_s: float) -> list[Finding]:
    if 0 < timeout_s <= RECEIVER_TIMEOUT_S:
        return []
    return [
        error(
            "receiver-timeout",
            name,
            f"wal_receiver_timeout is {timeout_s:g} s: a frozen primary is waited for half of it"
            if timeout_s
            else "wal_receiver_timeout is 0: a frozen primary is waited for without end",
            f"its owner must set it to {RECEIVER_TIMEOUT_S:g} s at most",
        )
    ]


def _as_leader(sight: Sight, server: Server) -> Iterator[Finding]:
    """What counts of the leader, and of whoever may become it."""
    name, settings = server.seen.member, server.settings
    if settings.get("synchronous_commit", "on") not in DURABLE:
        yield error(
            "synchronous-commit",
            name,
            f"synchronous_commit is {settings['synchronous_commit']}: it acknowledges what its voters may not have, and"
            " no verdict on loss covers that",
            "its owner must set it to on",
        )
    if settings.get("default_transaction_read_only") == "on":
        yield error(
            "read-only",
            name,
            "default_transaction_read_only is on: as primary it refuses clients' writes, and is no safer for it",
            "its owner must set it to off",
        )
    if server.seen.in_recovery and int(settings.get("recovery_min_apply_delay", 0)) > 0:
        yield error(
            "apply-delay",
            name,
            f"recovery_min_apply_delay is {int(settings['recovery_min_apply_delay']) / 1000:g} s: it may be promoted,"
            " and would first have to apply what it holds back",
            "its owner must set it to 0, or the topology's take it out of voters and candidates",
        )
    slots = any(each.slot for each in sight.standbys)
    restores = [bool(each.settings.get("restore_command")) for each in sight.standbys]
    archive = settings.get("archive_mode", "off") != "off" and bool(restores) and all(restores)
    if settings.get("wal_keep_size") == "0" and not slots and not archive:
        yield error(
            "wal-kept",
            name,
            "wal_keep_size is 0, and there are neither slots nor an archive that standbys restore from: a standby that"
            " is away for a moment must be rebuilt, and an old primary as well",
            "its owner must set wal_keep_size to what is written in an outage",
        )
    most = int(settings.get("max_connections", 0))
    if name == sight.leader and most and server.sessions >= NEARLY_FULL * most:
        yield warning(
            "connections",
            name,
            f"{server.sessions} of {most} connections are used: Lifeboat's own may be refused",
            "its owner should pool clients, or raise max_connections",
        )


def _room_for_followers(sight: Sight, server: Server) -> Iterator[Finding]:
    name = server.seen.member
    need, senders = len(sight.followers_of(name)), int(server.settings.get("max_wal_senders", 0))
    if not need:
        return
    if senders < need + COPY_SENDERS:
        short = "fewer than that" if senders < need else "which leaves no room for the copy of a rebuild"
        yield graded(
            senders < need,
            "senders",
            name,
            f"max_wal_senders is {senders}: {need} members follow it when it leads, {short}",
            f"its owner must set it to {need + COPY_SENDERS} at least, and restart it",
        )
    slots = int(server.settings.get("max_replication_slots", 0))
    if slots < need and any(each.slot for each in sight.standbys):
        yield error(
            "slots",
            name,
            f"max_replication_slots is {slots}: {need} members follow it when it leads, and they follow by slots",
            f"its owner must set it to {need} at least, and restart it",
        )


def _slots(sight: Sight, server: Server) -> Iterator[Finding]:
    name, held = server.seen.member, {slot.name for slot in server.slots}
    if sight.may_lead(name):
        for standby in sight.standbys:
            follows = standby.seen.member in sight.followers_of(name)
            if standby.slot and follows and standby.slot not in held and not server.makes_slots:
                yield error(
                    "slots",
                    name,
                    f"it has no slot {standby.slot}, by which {standby.seen.member} follows: once this one leads, that"
                    " one receives nothing",
                    "its owner must create it (pg_create_physical_replication_slot), or let Lifeboat make and drop such"
                    " slots (ALTER ROLE … REPLICATION, on the role that Lifeboat logs in with)",
                )
    for slot in server.slots:
        if slot.wal_status in ("lost", "unreserved"):
            yield error(
                "slots",
                name,
                f"slot {slot.name} is {slot.wal_status}: who follows by it must be rebuilt",
                "its owner must drop it and rebuild who used it, or raise max_slot_wal_keep_size",
            )
        elif not slot.active and slot.wal_status:
            yield warning(
                "slots",
                name,
                f"nobody reads from slot {slot.name}, and it keeps WAL until the disk is full",
                "its owner should bring its standby back, or drop it",
            )


def _archive(sight: Sight, server: Server) -> Iterator[Finding]:
    name, settings = server.seen.member, server.settings
    # With backups the leader's is more than a full disk (ready_backups, archiving).
    other = sight.service.backup is None or name != sight.leader
    if server.archiver_failing and other:
        yield error(
            "archive",
            name,
            f"its archiver fails (last {server.archiver_failing}): WAL piles up until the disk is full",
            "its owner must look at its log, and mend archive_command",
        )
    on = settings.get("archive_mode", "off") != "off"
    if on and other and not (settings.get("archive_command") or settings.get("archive_library")):
        yield error(
            "archive",
            name,
            "archive_mode is on without a command: WAL piles up until the disk is full",
            "its owner must set archive_command",
        )
    leads = sight.lead is not None and sight.lead.settings.get("archive_mode", "off") != "off"
    if leads and not on and sight.may_lead(name):
        yield warning(
            "archive",
            name,
            f"it archives nothing, though {sight.leader} does: the archive ends when this one is promoted",
            "its owner should set archive_mode and archive_command as there, and restart it",
        )


def _limits(sight: Sight, server: Server) -> Iterator[Finding]:
    if sight.lead is None or not server.seen.in_recovery:
        return
    for setting in LIMITS:
        mine, its = int(server.settings.get(setting, 0)), int(sight.lead.settings.get(setting, 0))
        if mine < its:
            yield error(
                "standby-limits",
                server.seen.member,
                f"{setting} is {mine}, and on {sight.leader} {its}: its replay pauses, and it does not start again",
                f"its owner must set it to {its} at least, and restart it",
            )


def _overrides(sight: Sight, server: Server) -> Iterator[Finding]:
    """Roles' and databases' own settings stand in the catalogue, and so are the same on every member."""
    access = sight.service.access
    for each in server.overrides:
        where = f"{each.whose()} ({sight.service.name})"
        if each.setting == "synchronous_commit" and each.value not in DURABLE:
            yield warning(
                "synchronous-commit",
                where,
                f"synchronous_commit is {each.value} for its sessions: what they write is acknowledged before it is"
                " safe, and no verdict on loss covers it",
                "whoever set it should know that, or take it back (ALTER ROLE|DATABASE … RESET synchronous_commit)",
            )
        ours = each.role in ("", access.user, access.probe_user)
        if each.setting == "default_transaction_read_only" and each.value in DURABLE and ours:
            yield error(
                "read-only",
                where,
                "default_transaction_read_only is on for its sessions: the write that verifies a route is refused",
                "whoever set it must take it back (ALTER ROLE|DATABASE … RESET default_transaction_read_only)",
            )
