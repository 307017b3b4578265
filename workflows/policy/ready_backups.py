"""Would a restore work? What is wrong with a service's backups, its archive, and the host that they are restored on."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.backup import BackupPolicy
from schemas.ready import Finding
from schemas.restores import Backup, Repository
from schemas.takes import BackupView
from schemas.wal import number_of
from workflows.policy.ready_sight import Sight, error, graded, warning
from workflows.policy.restore import legs, on_the_way

BEHIND = 2
"""Whole WAL files that the leader may have written and not archived yet, for as long as the RPO."""


def judge(sight: Sight) -> Iterator[Finding]:
    service, view = sight.service, sight.backups
    policy = service.backup
    if policy is None:
        yield warning(
            "backup-declared",
            service.name,
            f"it declares no `backup`: what is deleted by mistake is gone on every member, whatever its RPO of"
            f" {service.rpo_s:g} s",
            "the topology's owner should declare where its backups are, and on which host they are restored",
        )
        return
    yield from _archiving(sight)
    if view is None or view.error:
        yield from _unreachable(sight, policy)
        return
    yield from _age(sight, view, policy)
    yield from _broken(view)
    yield from _gaps(sight, view)
    yield from _room(view, policy)
    yield from _verified(sight, view, policy)


def _unreachable(sight: Sight, policy: BackupPolicy) -> Iterator[Finding]:
    """Without a worker of the host's region, that is what is found."""
    answering = [each.region for each in sight.views]
    if sight.backups is None and policy.host.region not in answering:
        return
    why = sight.backups.error if sight.backups is not None else "no answer in time"
    yield error(
        "backup-reachable",
        policy.host.name,
        f"the repository can't be read from there, so that nothing could be restored: {why}",
        "the backups' owner must look at credentials, key, network and storage, as it says",
    )


# The leader's archiver


def _archiving(sight: Sight) -> Iterator[Finding]:
    lead = sight.lead
    if lead is None:
        return
    settings, name = lead.settings, sight.leader
    if settings.get("archive_mode", "off") == "off":
        yield error(
            "archiving",
            name,
            "it archives nothing: nothing after the newest backup can be restored",
            "its owner must set archive_mode and archive_command, and restart it",
        )
    elif not (settings.get("archive_command") or settings.get("archive_library")):
        yield error(
            "archiving",
            name,
            "archive_mode is on without a command: WAL piles up until the disk is full",
            "its owner must set archive_command",
        )
    elif lead.archiver_failing:
        yield error(
            "archiving",
            name,
            f"its archiver fails (last {lead.archiver_failing}): nothing after that can be restored, and WAL piles up"
            " until the disk is full",
            "its owner must look at its log, and mend what archive_command says there",
        )
    else:
        yield from _behind(sight)


def _behind(sight: Sight) -> Iterator[Finding]:
    lead, rpo_s = sight.lead, sight.service.rpo_s
    if lead is None or len(lead.archived) < 24 or lead.archived_age_s is None or lead.seen.written is None:
        return
    size = int(lead.settings.get("wal_segment_size") or 16 * 1024 * 1024)
    waiting = lead.seen.written // size - number_of(lead.archived, size) - 1
    if waiting >= BEHIND and lead.archived_age_s > rpo_s:
        yield error(
            "archiving",
            sight.leader,
            f"{waiting} WAL files wait for its archiver, which ended its last {lead.archived_age_s:.0f} s ago: the RPO"
            f" is {rpo_s:g} s",
            "its owner must look at the archiver's log, and at how fast its storage takes files",
        )


# Backups


def _able(view: BackupView) -> list[Backup]:
    """Those that lead to the archive's living branch."""
    return [each for each in view.backups if on_the_way(_repository(view), each)]


def _repository(view: BackupView) -> Repository:
    return Repository(
        backups=view.backups,
        timeline=view.timeline or max((each.timeline for each in view.backups), default=1),
        branches=view.branches,
        stretches=view.stretches,
        segment_bytes=view.segment_bytes,
    )


def _age(sight: Sight, view: BackupView, policy: BackupPolicy) -> Iterator[Finding]:
    name = sight.service.name
    whole = [each for each in _able(view) if not each.broken]
    take = f"an operator must take one (`lifeboat run backup-take {name}`)"
    if not whole:
        what = "there is no backup" if not view.backups else f"no whole backup leads to timeline {view.timeline}"
        yield error("backup-age", name, f"{what}: nothing could be restored", take)
        return
    age = (view.at - whole[-1].stopped).total_seconds()
    if age > policy.max_age_s:
        yield graded(
            age > 2 * policy.max_age_s,
            "backup-age",
            name,
            f"the newest whole backup, {whole[-1].label}, is {age / 3600:.1f} h old; `max_age_s` is"
            f" {policy.max_age_s / 3600:.1f} h",
            f"{take}, and see why its schedule has not (`lifeboat schedules list`)",
        )


def _broken(view: BackupView) -> Iterator[Finding]:
    bad = [each for each in view.backups if each.broken]
    if bad:
        yield graded(
            bad[-1] is view.backups[-1],
            "backup-broken",
            ", ".join(each.label for each in bad),
            "bad pages were found while it was taken: the server's own data is damaged, or was",
            "the server's owner must check its pages (pg_amcheck, pg_checksums), then take a full backup",
        )


# WAL


def _gaps(sight: Sight, view: BackupView) -> Iterator[Finding]:
    """From the newest backup on, and from the oldest: what is missing there costs the time between them."""
    name = sight.service.name
    if view.unlisted:
        yield warning(
            "wal-gap",
            name,
            f"whether WAL is missing from the archive is not known: {view.unlisted}",
            "the backups' owner should look at its storage; `lifeboat run backup-verify` takes the time that it needs",
        )
        return
    able, repository = _able(view), _repository(view)
    if not able:
        return
    _, now = legs(repository, able[-1])
    _, once = legs(repository, able[0])
    if now and not _on_its_way(sight, now):
        yield error(
            "wal-gap",
            name,
            f"WAL file {now} is missing from the archive: nothing after it can be restored{_without(able, now)}",
            "the backups' owner must find the file (a versioned bucket, the servers' pg_wal), or an operator take a"
            f" backup now (`lifeboat run backup-take {name} --kind full`), from which on restores work again",
        )
    if once and once != now and not _on_its_way(sight, once):
        later = next((each for each in able if each.wal_start[8:] > once[8:]), able[-1])
        yield warning(
            "wal-gap",
            name,
            f"WAL file {once} is missing from the archive: between it and {later.label} no moment can be"
            f" restored{_without(able, once)}",
            "the backups' owner should find the file, unless a retention of WAL removes it on purpose"
            " (repo-retention-archive); it is gone with the backups before it",
        )


def _on_its_way(sight: Sight, name: str) -> bool:
    """Several files are archived at once: one that the leader doesn't call archived yet is not missing."""
    return sight.lead is not None and len(sight.lead.archived) >= 24 and name[8:] > sight.lead.archived[8:24]


def _without(able: list[Backup], name: str) -> str:
    lost = [each.label for each in able if each.wal_start[8:] <= name[8:] <= each.wal_stop[8:]]
    return f", and {', '.join(lost)} not at all" if lost else ""


# The host, and the proof


def _room(view: BackupView, policy: BackupPolicy) -> Iterator[Finding]:
    host = policy.host
    if view.room_error:
        yield error(
            "restore-room",
            host.name,
            f"it can't say how much room it has: {view.room_error}",
            "its owner must look at it",
        )
    elif view.room_bytes is not None and view.backups:
        needed = view.backups[-1].bytes + host.keep_free_bytes
        if view.room_bytes < needed:
            yield error(
                "restore-room",
                host.name,
                f"{host.directory} has {view.room_bytes / 1e9:.1f} GB free, and a copy takes"
                f" {view.backups[-1].bytes / 1e9:.1f} GB beside {host.keep_free_bytes / 1e9:.1f} GB that must be left",
                "its owner must make room there",
            )


def _verified(sight: Sight, view: BackupView, policy: BackupPolicy) -> Iterator[Finding]:
    name, found = sight.service.name, view.verified
    run = f"(`lifeboat run backup-verify {name} --wait`)"
    if view.verify_error:
        yield warning(
            "backup-verified",
            name,
            f"when a backup was last verified is not known: {view.verify_error}",
            "whoever runs Temporal should look at its visibility store",
        )
    elif found is None:
        yield warning(
            "backup-verified",
            name,
            "no run has restored one of its backups, as far as Temporal still knows: whether they restore is hope",
            f"an operator should verify the newest {run}, and put it on a schedule",
        )
    elif found.outcome not in ("done", "done, unprotected"):
        yield error(
            "backup-verified",
            name,
            f"the newest verification, {found.run}, ended: {found.outcome}",
            "the backups' owner must read its report, mend what it says, and an operator verify again",
        )
    elif (age := (view.at - found.ended).total_seconds()) > policy.verify_max_age_s:
        yield warning(
            "backup-verified",
            name,
            f"the newest verification, {found.run}, is {age / 86400:.1f} days old; `verify_max_age_s` is"
            f" {policy.verify_max_age_s / 86400:.1f}",
            f"an operator should verify the newest backup {run}, and see why its schedule has not",
        )
    elif found.outcome == "done, unprotected":
        yield warning(
            "backup-verified",
            name,
            f"the newest verification, {found.run}, restored, and found what is no good",
            "the backups' owner should read its report (`lifeboat report`)",
        )
