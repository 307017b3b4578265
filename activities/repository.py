"""pgBackRest on a machine that reaches the repository: backup.sh is sent there, and what it answers is read here.

A backup is taken on the leader's node, by its node control; the restore host looks at what came of it.
"""

from __future__ import annotations

from activities.commands import TOLD
from activities.data_folder import folder_of
from activities.jobs import Answers, one
from activities.node import run_on
from activities.restore_host import answered, sending, stanza_of
from schemas.failures import NodeControlFailed
from schemas.restores import Stretch
from schemas.takes import NodeBackupOrder, WalSum

LOCKED = "50"
"""pgBackRest's own code: another of its commands holds the lock that this one needs."""
NOT_LATER = "106"
"""A diff or an incr would have a name before that of what a killed full backup left: a store may list its folder still,
though pgBackRest has removed all that was in it (versitygw does, with versions)."""
NO_BACKUP = 2
"""Its status of a stanza in which none is yet."""


async def on_node(order: NodeBackupOrder, *words: str, kind: str = "backup") -> Answers:
    """One verb of backup.sh on the member's node. `kind`: whose job it is about, each has a folder of its own there."""
    member = order.service.member(order.member)
    folder = folder_of(member)
    assert member.control is not None
    config = folder.backup_config or order.policy.repository.config
    keep = f"{folder.keep.rstrip('/')}/{kind}"
    argv = [
        *folder.run_as,
        *sending(order.policy, config, "backup"),
        folder.directory,
        folder.bin,
        keep,
        config,
        *words,
    ]
    code, output = await run_on(member.control, argv)
    return answered(member.name, code, output, words, NodeControlFailed)


def trouble(info: str, stanza: str) -> str:
    """Why there is nothing in a repository, in pgBackRest's own words; "" where there only is no backup yet."""
    found = stanza_of(info, stanza) or {}
    told = [each["status"]["message"] for each in found.get("repo", []) if each["status"]["code"] not in (0, NO_BACKUP)]
    if not found:
        return f"the repository has no stanza {stanza}"
    return "; ".join(told)[:TOLD]


def lock_held(info: str, stanza: str) -> bool:
    """Whether a backup or a removal is under way on the machine that was asked."""
    found = stanza_of(info, stanza) or {}
    return bool(found.get("status", {}).get("lock", {}).get("backup", {}).get("held"))


def oldest_wal(info: str, stanza: str, archive: str) -> str:
    """The first WAL file that the archive keeps; "" for none."""
    found = stanza_of(info, stanza) or {}
    return next((each["min"] or "" for each in found.get("archive", []) if each["id"] == archive), "")


def stretches_of(answers: Answers) -> tuple[list[Stretch], WalSum]:
    """What `archive` tells: the stretches, and all of them together."""
    rows = [each.split(";") for each in answers.get("stretch", [])]
    files, kept = sum(int(each[2]) for each in rows), sum(int(each[3]) for each in rows)
    return [Stretch(first=each[0], last=each[1]) for each in rows], WalSum(files=files, kept_bytes=kept)


def job_told(answers: Answers) -> str:
    """What a job that failed said: pgBackRest's own words before ours."""
    errors = [line for line in answers.get("line", []) if "ERROR" in line or "HINT" in line]
    return " | ".join([*(errors or answers.get("line", [])), *answers.get("error", [])])[-TOLD:]


def exit_of(answers: Answers) -> str:
    """pgBackRest's exit code, where a job ended with one."""
    return one(answers, "exit")
