"""A member's data folder, on its node: looked at, kept, rewound, rebuilt, and started as a standby (safety.md, Rejoin).

data_folder.sh is sent by the member's node control; what it answers is read here. Long work is a job on the node, so
that a worker that dies, or is replaced, finds it under way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import asyncpg
from temporalio import activity

from activities.beating import beating
from activities.commands import TIMED_OUT, TOLD
from activities.fencing import conninfo
from activities.jobs import Answers, Progress, branches_of, number, one, parse, script, until_ended
from activities.node import must_be_ours, run_on
from activities.sessions import BROKEN, literal, session
from activities.slots import make_slot
from activities.survey import look
from schemas.data import DataFolder
from schemas.facts import Branch
from schemas.failures import (
    DataFolderFailed,
    JobFailed,
    MemberUnreachable,
    NodeControlFailed,
    NodeRuns,
    NotYet,
    SecondPrimary,
    StartedInVain,
)
from schemas.orders import NodeOrder
from schemas.rejoin import (
    Examination,
    FolderFacts,
    FolderOrder,
    FolderResult,
    ReturnOrder,
    Room,
    Shut,
    ShutOrder,
)
from schemas.topology import DatabaseService, Member
from schemas.wal import position

SHUT_S = 3
"""How long the look beside a stop waits for its end; a slower stop is looked at again."""

STALLED_S = 900.0
"""A server in recovery tells of its way at every restart point at least, which are 5 min apart by default."""


def folder_of(member: Member) -> DataFolder:
    """DataFolderFailed where the topology declares none: its owner must."""
    if member.data is None or member.control is None:
        raise DataFolderFailed(f"{member.name} has no `data` in the topology, so Lifeboat can't work on its folder")
    return member.data


def sending(folder: DataFolder, keep: str, *words: str) -> list[str]:
    """The words that send data_folder.sh to a node; its jobs are in `keep`."""
    argv = [*folder.run_as, "sh", "-c", 'eval "$1"', "lifeboat-data", script("data_folder.sh")]
    return [*argv, folder.directory, folder.bin, keep, folder.config_file or "", *words]


async def tell(order: NodeOrder, *words: str) -> Answers:
    """Carry out one verb of data_folder.sh on the node; its answers by name. NodeRuns, DataFolderFailed."""
    await must_be_ours(order)
    return await ask(order, *words)


async def ask(order: NodeOrder, *words: str) -> Answers:
    """The same for a verb that changes nothing."""
    member = order.service.member(order.member)
    folder = folder_of(member)
    assert member.control is not None
    code, output = await run_on(member.control, sending(folder, folder.keep, *words))
    answers = parse(output)
    if answers.get("error") and answers.get("running") == ["1"]:
        raise NodeRuns(member.name)
    if answers.get("error") and words[0] not in ("begin", "status"):
        raise DataFolderFailed(f"{member.name}: {'; '.join(answers['error'])}{_told(output)}")
    if code != 0 and not answers:
        raise NodeControlFailed(f"{member.name}: {words[0]} exited {code}: {output[-TOLD:]}")
    return answers


async def _command(order: NodeOrder, argv: list[str]) -> None:
    """One of the node's own commands, which must work."""
    await must_be_ours(order)
    control = order.service.member(order.member).control
    assert control is not None
    code, output = await run_on(control, argv)
    if code != 0:
        raise NodeControlFailed(f"{order.member}: {argv[0]} … exited {code}: {output[-TOLD:]}")


def _told(output: str) -> str:
    """What the programs said, without the answers."""
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith("::")]
    return f": {' | '.join(lines)[-TOLD:]}" if lines else ""


def _facts(member: str, found: Answers) -> FolderFacts:
    newest = one(found, "newest_wal")
    return FolderFacts(
        member=member,
        running=one(found, "running") == "1",
        major=number(found, "major"),
        programs=number(found, "programs"),
        state=one(found, "state"),
        system=one(found, "system"),
        checkpoint=position(one(found, "checkpoint")),
        recovered_to=position(one(found, "recovered_to")),
        timeline=max(int(newest[:8], 16) if newest else 0, number(found, "checkpoint_timeline")),
        segment_bytes=number(found, "segment_bytes"),
        hints=one(found, "hints") == "on" or number(found, "checksums") > 0,
        standby=one(found, "standby") == "1",
        stamp=number(found, "stamp"),
        begun=one(found, "begun"),
        held=one(found, "held"),
        ancestors=branches_of(found.get("ancestor", [])),
        room_bytes=number(found, "room_kb") * 1024,
    )


def source(service: DatabaseService, member: Member, leader: Member, *, rewind: bool = False) -> str:
    """The connection to the leader that the node's own programs make; its application_name is nobody's vote."""
    parts = conninfo(service, member, leader).split(" ")
    kept = [part for part in parts if not part.startswith(("user=", "application_name="))]
    user = (service.access.rewind_user if rewind else None) or service.access.replication_user
    return " ".join([*kept, f"user={user}", f"dbname={service.access.database}", f"application_name={visitor(member)}"])


def visitor(member: Member) -> str:
    return f"lifeboat-rejoin-{member.name}"


@activity.defn
async def look_at_folder(order: NodeOrder) -> FolderFacts:
    """The folder as it stands. Nothing is changed."""
    return _facts(order.member, await ask(order, "look"))


@activity.defn
async def until_in_reach(order: NodeOrder) -> FolderFacts:
    """Wait until the node answers its control, and does as it is told; the folder as it stands then."""
    pause, told = 1.0, {"doing": f"waiting for the node of {order.member}"}
    # Its control may take its whole time, far more than a worker's death may go unnoticed.
    async with beating(told):
        while True:
            try:
                return _facts(order.member, await ask(order, "look"))
            except NodeControlFailed as error:
                told["why"] = error.detail[-TOLD:]
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 10.0)


@activity.defn
async def keep_from_starting(order: NodeOrder) -> FolderResult:
    """Autostart off, before a planned stop."""
    member = order.service.member(order.member)
    folder_of(member)
    assert member.control is not None
    if member.control.autostart_off is not None:
        await must_be_ours(order)
        code, output = await run_on(member.control, member.control.autostart_off)
        if code != 0:
            raise NodeControlFailed(
                f"{member.name}: {member.control.autostart_off[0]} … exited {code}: {output[-TOLD:]}"
            )
    return FolderResult(evidence=f"{member.name} does not start by itself")


@activity.defn
async def stop_cleanly(order: ShutOrder) -> Shut:
    """A fast stop, then the folder as it was left, and what the candidate has received: read after the stop, in one
    activity, since clients wait. Only `shut down` says that the last checkpoint is the last WAL.
    """
    service, member = order.service, order.service.member(order.member)
    folder_of(member)
    assert member.control is not None
    await must_be_ours(order)
    async with beating(f"{member.name} stops"):
        stop = asyncio.ensure_future(run_on(member.control, member.control.stop))
        # A moment later, so that the stop has the processor first.
        await asyncio.sleep(0.02)
        told, found = await asyncio.gather(stop, ask(order, "shut", str(SHUT_S)), return_exceptions=True)
        if isinstance(told, BaseException):
            raise told
        facts = None if isinstance(found, BaseException) else _facts(member.name, found)
        if facts is None or facts.running:
            facts = _facts(member.name, await ask(order, "shut", "0"))
        candidate = await look(service, service.member(order.candidate))
    if facts.running:
        raise NodeControlFailed(f"{member.name}: stop exited {told[0]}, and it runs: {told[1][-TOLD:]}")
    return Shut(folder=facts, candidate=candidate)


_LEADER = """
SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int AS timeline,
       (SELECT system_identifier::text FROM pg_control_system()) AS system,
       current_setting('server_version_num')::int / 10000 AS major
"""
_BYTES = "SELECT sum(pg_database_size(oid))::bigint FROM pg_database"
CHECKPOINT_S = 600.0
SIZE_S = 60.0
"""Every file of the leader is looked at for its size; one that takes longer is copied from without it."""


@activity.defn
async def measure_room(order: FolderOrder) -> Room:
    """What a copy of the leader takes, and what there is for it."""
    needed: int | None = None
    with contextlib.suppress(MemberUnreachable, *BROKEN, asyncpg.PostgresError):
        async with (
            beating(f"size of {order.leader}"),
            session(order.service, order.service.member(order.leader)) as conn,
        ):
            needed = int(await conn.fetchval(_BYTES, timeout=SIZE_S) or 0)
    found = await tell(order, "room")
    free, used = (int((found.get(name) or ["0"])[0] or 0) * 1024 for name in ("room_kb", "used_kb"))
    return Room(bytes=needed, free=free, used=used)


@activity.defn
async def examine_folder(order: FolderOrder) -> Examination:
    """The folder beside the leader's history. Nothing is changed."""
    service, member, leader = order.service, order.service.member(order.member), order.service.member(order.leader)
    async with session(service, leader) as conn:
        row = await conn.fetchrow(_LEADER)
    assert row is not None
    branches: list[Branch] = []
    async with beating(f"examining {member.name}"):
        if row["timeline"] > 1:
            found = await ask(order, "history", source(service, member, leader), str(row["timeline"]))
            if "branch" not in found:
                raise DataFolderFailed(f"{member.name} can't read the leader's history: {found.get('error')}")
            branches = branches_of(found["branch"])
        facts = _facts(member.name, await ask(order, "look"))
    return Examination(
        folder=facts,
        leader=leader.name,
        leader_timeline=row["timeline"],
        leader_system=row["system"],
        leader_major=row["major"],
        branches=branches,
    )


async def run_job(
    order: NodeOrder, kind: str, *words: str, mark: str = "", progress: Progress | None = None
) -> Answers:
    """Begin a job on the node, or find it, and wait for its end. JobFailed when it fails or is killed; a next attempt
    begins it anew. One that has ended well is not begun again by this run in this epoch, with this `mark`.
    """
    ident = f"{kind}/{order.run}/{order.epoch}" + (f"/{mark}" if mark else "")

    async def carry_out(verb: str, *words: str) -> Answers:
        return await (ask if verb == "status" else tell)(order, verb, *words)

    answers = await until_ended(carry_out, ident, [kind, *words], f"{kind} of {order.member}", progress)
    if answers.get("code") == ["superseded"]:
        raise JobFailed(f"{order.member}: the {kind} was ended for another job: {answers.get('job')}")
    if answers.get("code") == ["0"] and "done" in answers:
        return answers
    if answers.get("running") == ["1"]:
        raise NodeRuns(order.member)
    log = " | ".join([*answers.get("error", []), *answers.get("line", [])])[-TOLD:]
    raise JobFailed(f"{order.member}: the {kind} ended with {answers.get('code', ['nothing'])[0]}: {log}")


def _settings(order: ReturnOrder) -> str:
    """What postgresql.auto.conf says of a standby, beside what is the node's own."""
    member, leader = order.service.member(order.member), order.service.member(order.leader)
    return "\n".join(
        (
            f"lifeboat.epoch = '{order.epoch:d}'",
            f"primary_conninfo = {literal(conninfo(order.service, member, leader))}",
        )
    )


_COPYING = """
SELECT p.phase, p.backup_total, p.backup_streamed
  FROM pg_stat_progress_basebackup p JOIN pg_stat_activity a USING (pid) WHERE a.application_name = $1
"""


class Copying:
    """Bytes and time left of a copy, as the leader that it is made from tells."""

    def __init__(self, order: ReturnOrder) -> None:
        self.order, self.began, self.bytes = order, asyncio.get_running_loop().time(), 0

    async def __call__(self, _: Answers) -> Mapping[str, object]:
        service = self.order.service
        try:
            async with session(service, service.member(self.order.leader)) as conn:
                row = await conn.fetchrow(_COPYING, visitor(service.member(self.order.member)))
        except (MemberUnreachable, *BROKEN, asyncpg.PostgresError) as error:
            return {"why": str(error)}
        if row is None:
            return {}
        done, total = row["backup_streamed"] or 0, row["backup_total"]
        self.bytes = max(self.bytes, done)
        passed = asyncio.get_running_loop().time() - self.began
        left = None if not (total and done and passed) else max(total - done, 0) * passed / done
        return {"phase": row["phase"], "bytes": done, "of": total, "left_s": None if left is None else round(left, 1)}


@activity.defn
async def return_member(order: ReturnOrder) -> FolderResult:
    """Make the folder a standby's of the leader: as it is, by rewind, or by a copy of the whole. It is not started.

    JobFailed: a rewind that failed leaves a folder that only a rebuild mends.
    """
    service, member, leader = order.service, order.service.member(order.member), order.service.member(order.leader)
    folder, began = folder_of(member), asyncio.get_running_loop().time()
    settings, copying = _settings(order), Copying(order)
    async with beating(f"{order.method} of {member.name}"):
        match order.method:
            case "follow":
                await tell(order, "follow", settings)
            case "rewind":
                # Its control file must name the timeline that it leads on by now, or nothing would be rewound.
                async with session(service, leader) as conn:
                    await conn.execute("CHECKPOINT", timeout=CHECKPOINT_S)
                await run_job(order, "rewind", source(service, member, leader, rewind=True), settings)
            case "rebuild":
                rate = str(folder.max_rate_kb_s or "")
                words = (source(service, member, leader), settings, visitor(member), rate, order.released)
                await run_job(order, "rebuild", *words, progress=copying)
    took = asyncio.get_running_loop().time() - began
    done = {"follow": "turned into a standby as it is", "rewind": "rewound", "rebuild": "copied anew"}[order.method]
    return FolderResult(evidence=f"{member.name} was {done} in {took:.1f} s", seconds=took, bytes=copying.bytes or None)


REFUSED_S = 5.0
"""One that refuses for so long, and not for who asks, is not on its way up."""


def _is_refusal(error: BaseException | None) -> bool:
    """Whether a server can't open the database. Passwords, roles and whole databases may be younger than what it has
    replayed so far (SQLSTATE class 28, and 3D000 without files that are missing)."""
    if not isinstance(error, asyncpg.PostgresError) or isinstance(error, BROKEN):
        return False
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return "missing" in (error.detail or "")
    return not str(error.sqlstate or "").startswith("28")


async def _role(order: FolderOrder) -> tuple[bool | None, str]:
    """Whether the member is in recovery; None while it takes no session, and why where it is not on its way up."""
    try:
        async with session(order.service, order.service.member(order.member), limit=0.5) as conn:
            return bool(await conn.fetchval("SELECT pg_is_in_recovery()")), ""
    except (MemberUnreachable, *BROKEN, asyncpg.PostgresError) as error:
        told = error.__cause__ if isinstance(error, MemberUnreachable) else error
        return None, str(told) if _is_refusal(told) else ""


@activity.defn
async def start_standby(order: FolderOrder) -> FolderResult:
    """Start the member, once its folder is seen to be a standby's, and see that it came up as one.

    A server that recovers for long takes no session meanwhile: it is waited for. SecondPrimary, after stopping it, when
    it came up as a primary.
    """
    member = order.service.member(order.member)
    folder_of(member)
    assert member.control is not None
    began = asyncio.get_running_loop().time()
    async with beating(f"{member.name} starts"):
        found = await tell(order, "is_standby")
        if found.get("slot", [""])[0]:
            # One that was rewound needs the leader's WAL before it takes a session.
            await make_slot(order.service, order.service.member(order.leader), found["slot"][0])
        if found.get("running") != ["1"]:
            await must_be_ours(order)
            code, output = await run_on(member.control, member.control.start)
            if code not in (0, TIMED_OUT) and (await ask(order, "look")).get("running") != ["1"]:
                raise StartedInVain(f"{member.name}: start exited {code}: {output[-TOLD:]}")
        moved, stood = asyncio.get_running_loop().time(), Answers()
        answered = moved
        while True:
            recovering, refusal = await _role(order)
            if recovering is not None:
                break
            if not refusal:
                answered = asyncio.get_running_loop().time()
            elif asyncio.get_running_loop().time() - answered > REFUSED_S:
                raise StartedInVain(f"{member.name} runs, and takes no session: {refusal}")
            now = await ask(order, "look")
            if now.get("running") != ["1"]:
                raise StartedInVain(f"{member.name} was started, and ended; its own log says why")
            if now != stood:
                moved, stood = asyncio.get_running_loop().time(), now
            if asyncio.get_running_loop().time() - moved > STALLED_S:
                raise NotYet(
                    f"{member.name} takes no session, and recovers nothing for {STALLED_S:.0f} s; its log says why"
                )
            await asyncio.sleep(0.2)
        if not recovering:
            # It may have been promoted meanwhile, by whoever has the service now.
            await must_be_ours(order)
            await run_on(member.control, member.control.stop)
            raise SecondPrimary(member.name)
    return FolderResult(evidence=f"{member.name} runs as a standby", seconds=asyncio.get_running_loop().time() - began)


@activity.defn
async def let_it_start(order: FolderOrder) -> FolderResult:
    """Autostart on again: the member streams, and may come back by itself from now on."""
    member = order.service.member(order.member)
    folder_of(member)
    assert member.control is not None
    if member.control.autostart_on is not None:
        await must_be_ours(order)
        code, output = await run_on(member.control, member.control.autostart_on)
        if code != 0:
            raise NodeControlFailed(
                f"{member.name}: {member.control.autostart_on[0]} … exited {code}: {output[-TOLD:]}"
            )
    return FolderResult(evidence=f"{member.name} may start by itself")
