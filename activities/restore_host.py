"""The restore host: restore.sh is sent to it, and what it answers is read here (safety.md, Point-in-time restore).

A host of another kind than a folder needs no more than its own way to run a command there (`run_there`).
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Literal

from activities.commands import TOLD, run_command
from activities.jobs import Answers, Progress, number, one, parse, script, until_ended
from schemas.backup import BackupPolicy
from schemas.failures import BackupsUnreadable, NodeControlFailed, RestoreFailed, RestoreHostFailed
from schemas.restores import Backup, CopyFacts, HostOrder
from schemas.wal import position

COMMAND_S = 60.0
"""Limit of a verb that is no job."""
FIRST_NORMAL = 16384
"""The first oid that is not a system's own (FirstNormalObjectId)."""
UNREAD = 99
"""`info`'s code of a repository that it could not read (src/command/info/info.c, INFO_STANZA_STATUS_CODE_OTHER)."""
UNREADABLE = ("pgBackRest", "lifeboat-archive")
"""How an error of the repository, not of the host, begins."""
PGBACKREST = "ERROR: ["
"""How pgBackRest begins to say why it failed; then its code."""
CODE = re.compile(r"ERROR: \[(\d{3})\]")
CHECKSUM, FORMAT = 26, 29
"""pgBackRest's own codes of a file that it had, and that is not what it was when it was kept
(src/build/error/error.yaml): another checksum, or no longer to be decompressed.
"""
SURE = 5
"""Attempts after which a file that was damaged each time is so in the repository, and not only on its way."""
WRONG = re.compile(r"\[(?:FormatError|ChecksumError|CryptoError)\]")
"""How archive-get tells of such a file, behind a code of its own that is any failure's to read."""
DAMAGED = "it is damaged in the archive"


async def run_there(order: HostOrder, argv: list[str], limit: float) -> tuple[int, str]:
    """One command on the host, as its servers' user: exit code and the end of its output."""
    return await run_command([*order.host.run_as, *argv], limit)


def folder_of(order: HostOrder) -> str:
    """The copy's own folder."""
    return f"{order.host.directory.rstrip('/')}/{order.copy_name}"


def sending(policy: BackupPolicy, config: str, to: str, **more: str) -> list[str]:
    """The words that send a script, `restore` or `backup`, with what it must know of the repository."""
    repository = policy.repository
    environment = {
        "REPOSITORY_PROGRAM": repository.program,
        "REPOSITORY_CONFIG": config,
        "STANZA": repository.stanza,
        "REPOSITORY": str(repository.repository),
        "REPOSITORY_KIND": repository.kind,
        "REPOSITORY_NAME": repository.called,
        "RETENTION": " ".join(repository.retention_words()),
        **more,
    }
    argv = ["env", *(f"{name}={value}" for name, value in environment.items())]
    return [*argv, "sh", "-c", 'eval "$1"', f"lifeboat-{to}", script(f"{to}.sh")]


async def ask(order: HostOrder, *words: str, limit: float = COMMAND_S, to: str = "restore") -> Answers:
    """Carry out one verb of restore.sh, or `to` another; its answers by name. BackupsUnreadable, RestoreHostFailed."""
    policy, host, keep = order.policy, order.host, folder_of(order)
    more = {"OWN_ROLE": order.service.access.user, "ISOLATION": host.isolation or ""}
    argv = sending(policy, host.config or policy.repository.config, to, **more)
    argv += [f"{keep}/data", host.bin, keep, f"{keep}/postgresql.conf", *words]
    try:
        code, output = await run_there(order, argv, limit)
    except NodeControlFailed as error:
        raise RestoreHostFailed(f"{host.name}: {error.detail}") from error
    return answered(host.name, code, output, words, RestoreHostFailed)


def answered(
    where: str,
    code: int,
    output: str,
    words: tuple[str, ...],
    failure: type[NodeControlFailed] | type[RestoreHostFailed],
) -> Answers:
    """What a script answered; BackupsUnreadable where the repository failed, else `failure`. A job's own is told."""
    answers = parse(output)
    failed = "; ".join(answers.get("error", []))
    if words[0] == "probe" and (lasting := lasting_failure(failed)) is not None:
        raise lasting
    if failed and words[0] not in ("begin", "take", "status"):
        raise (BackupsUnreadable if failed.startswith(UNREADABLE) else failure)(f"{where}: {failed}")
    if code != 0 and not answers:
        raise failure(f"{where}: {words[0]} exited {code}: {output[-TOLD:]}")
    return answers


async def run_job(order: HostOrder, what: str, *words: str, doing: str, progress: Progress | None = None) -> Answers:
    """Long work on the copy, found under way by the next worker where this one dies; as it ended."""

    async def carry_out(*each: str) -> Answers:
        return await ask(order, *each)

    return await until_ended(carry_out, f"{what}/{order.run}", list(words), doing, progress)


def told(answers: Answers) -> str:
    """What a job that failed said; its last lines only where it has not said pgBackRest's error itself."""
    errors = answers.get("error", [])
    lines = [] if any(PGBACKREST in each for each in errors) else answers.get("line", [])
    return " | ".join([*errors, *lines])[-TOLD:]


def code_of(text: str) -> int:
    """pgBackRest's own code of why it ended; 0 for none."""
    found = CODE.search(text)
    return int(found[1]) if found else 0


def stays_damaged(text: str, attempt: int) -> bool:
    """Whether a WAL file that could not be had, as pgBackRest says it, will be no better another time."""
    return WRONG.search(text) is not None and attempt >= SURE


def lasting_failure(text: str) -> RestoreFailed | None:
    """What is wrong with a backup that was read, by what pgBackRest says; None where it may be read another time."""
    lower = text.lower()
    undeciphered = "cryptoerror" in lower or "unable to flush" in lower
    # What restores the files has the key of a list that was deciphered.
    if undeciphered and "raised from local" not in lower:
        return RestoreFailed(f"the repository can't be decrypted with this key: {text}")
    if undeciphered or ("checksum" in lower and "does not match" in lower) or code_of(text) in (CHECKSUM, FORMAT):
        return RestoreFailed(f"a file of the backup is not what was backed up: {text}")
    if "filemissing" in lower:
        return RestoreFailed(f"a file of the backup is missing: {text}")
    return None


def moment_of(seconds: str) -> datetime | None:
    """Of seconds since 1970; None for none."""
    try:
        return datetime.fromtimestamp(float(seconds), UTC)
    except ValueError:
        return None


def stanza_of(info: str, stanza: str) -> dict[str, Any] | None:
    """What `pgbackrest info --output=json` has of a stanza; None for nothing.

    With another key it repeats, as they are, the characters that it made of the repository: no strict JSON.
    """
    return next((each for each in json.loads(info, strict=False) if each["name"] == stanza), None)


def backups_of(info: str, stanza: str) -> tuple[list[Backup], str]:
    """What `pgbackrest info --output=json` lists, oldest first, and why there is nothing where there is nothing.

    BackupsUnreadable, RestoreFailed: it exits 0 and lists nothing where it could read nothing.
    """
    found = stanza_of(info, stanza)
    if found is None:
        return [], f"the repository has no stanza {stanza}"
    _must_be_read(found)
    systems = {each["id"]: str(each["system-id"]) for each in found["db"]}
    archives = {each["database"]["id"]: each["id"] for each in found["archive"]}
    backups = [
        Backup(
            label=each["label"],
            kind=each["type"],
            started=datetime.fromtimestamp(each["timestamp"]["start"], UTC),
            stopped=datetime.fromtimestamp(each["timestamp"]["stop"], UTC),
            lsn_start=position(each["lsn"]["start"]),
            lsn_stop=position(each["lsn"]["stop"]),
            wal_start=each["archive"]["start"],
            wal_stop=each["archive"]["stop"],
            system=systems.get(each["database"]["id"], ""),
            archive=archives.get(each["database"]["id"], ""),
            bytes=each["info"]["size"],
            kept_bytes=each["info"]["repository"]["delta"],
            storage=each["info"]["repository"].get("class", ""),
            delta_bytes=each["info"]["delta"],
            broken=bool(each.get("error")),
        )
        for each in found["backup"]
    ]
    status = found["status"]
    return sorted(backups, key=lambda each: each.stopped), status["message"] if status["code"] else ""


def _must_be_read(stanza: dict[str, Any]) -> None:
    for each in stanza["repo"]:
        if each["status"]["code"] != UNREAD:
            continue
        said = each["status"]["message"]
        # What another key makes of it has no good padding, or where that happens to be right, no format from the start.
        if stanza["cipher"] != "none" and ("CryptoError" in said or "outside of section at line 1:" in said):
            raise RestoreFailed(f"the repository can't be decrypted with this key ({stanza['cipher']})")
        raise BackupsUnreadable(f"{UNREADABLE[0]} can't read its repository: {' '.join(said.split())[-TOLD:]}")


def databases_of(info: str, stanza: str) -> list[str]:
    """The users' own databases in a backup, of `info --set`: those that can be left out of a restore."""
    found = stanza_of(info, stanza)
    assert found is not None
    _must_be_read(found)
    return [each["name"] for each in found["backup"][0].get("database-ref") or [] if each["oid"] >= FIRST_NORMAL]


def facts_of(answers: Answers) -> CopyFacts:
    """What `look` tells."""
    recovery, pause, replayed, commit, *_ = [*one(answers, "session").split("|"), "", "", "", ""]
    count, _, newest = one(answers, "fetched").partition(";")
    refused = dict(each.split(";") for each in answers.get("refused", []))
    return CopyFacts(
        owner=one(answers, "owner"),
        restored=one(answers, "restored"),
        running=one(answers, "running") == "1",
        wanted=one(answers, "wanted"),
        state=one(answers, "state"),
        system=one(answers, "system"),
        timeline=max(int(newest[:8], 16) if newest else 0, number(answers, "recovered_timeline")),
        checkpoint_timeline=number(answers, "checkpoint_timeline"),
        checksums=number(answers, "checksums") > 0,
        in_recovery=recovery == "t",
        pause=pause,
        replayed=position(replayed),
        last_commit=moment_of(commit),
        heartbeat=moment_of(one(answers, "heartbeat")),
        unbeaten=one(answers, "heartbeat") == "none",
        fetched=int(count or 0),
        newest_file=newest,
        refused={name: int(code) for name, code in refused.items()},
        why=one(answers, "why"),
        fatal=answers.get("fatal", []),
        ended_at=one(answers, "last_commit"),
        line=one(answers, "line"),
        network=_network_of(one(answers, "network")),
        reaches=answers.get("reaches", []),
        shared=one(answers, "shared"),
    )


def _network_of(told: str) -> Literal["", "own", "shared"]:
    return "own" if told == "own" else "shared" if told == "shared" else ""
