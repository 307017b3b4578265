"""Protecting the estate again: rejoins that are started, the synchronous set, and what is still missing."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities import fencing
    from schemas import attributes
    from schemas.orders import FollowOrder, Observation
    from schemas.requests import RejoinRequest
    from workflows.database import DatabaseRunbook
    from workflows.policy.protection import what_is_missing
    from workflows.policy.voters import next_set
    from workflows.synchronous import carry_out_change

SET_ROUNDS = 8
"""Steps towards the set that the policy wants; most aims take two."""


class StartingRejoins(DatabaseRunbook):
    """Rejoins as children that outlive the run."""

    def __init__(self) -> None:
        super().__init__()
        self.astray: dict[str, str] = {}
        """Members that do not follow the new primary, and why."""

    async def protect(self) -> str:
        """Each member that is not back gets a rejoin of its own, which waits for its node and outlives this run."""
        told = [await self.protect_member(name) for name in (self.suspect, *self.astray)]
        return "; ".join(filter(None, told)) or f"left to a person: {'; '.join(self.unprotected)}"

    async def protect_member(self, name: str) -> str:
        """Begin its rejoin where the policy lets it; "" where a person must."""
        policy, why = self.estate.service.rejoin, self.astray.get(name)
        state = f"{name} does not follow ({why})" if why else f"{name} is not back as a standby"
        unable = self.why_no_rejoin(name)
        if unable:
            hint = f"`lifeboat run database-rejoin {self.service_name} --member {name}`"
            self.unprotected.append(f"{state}: {unable}, then {hint}")
            return ""
        run = await self.start_rejoin(name)
        self.followed_by.append(run)
        until = "until a person approves it" if policy.when == "on-approval" else "until it streams"
        self.unprotected.append(f"{state}: {run} brings it back; unprotected {until}")
        return f"{run} has begun"

    def would_protect(self) -> str:
        unable = self.why_no_rejoin(self.suspect)
        when = "at once" if self.estate.service.rejoin.when == "at-once" else "once a person approves"
        return (
            unable or f"its divergent WAL kept and counted, then {self.suspect} rewound or rebuilt as a standby, {when}"
        )

    def why_no_rejoin(self, member: str) -> str:
        """Why a rejoin is not started by itself; "" when it is."""
        declared = self.estate.service.member(member)
        if self.estate.service.rejoin.when == "by-hand":
            return "keep it from starting (`rejoin.when` is by-hand)"
        if declared.data is None:
            return "keep it from starting, and declare `data` for it"
        return ""

    def lost_by(self) -> str:
        """The verdict that the promotion was decided on."""
        return self.assessment.verdict.text()

    async def start_rejoin(self, member: str, *, rebuild: str = "") -> str:
        """Where it has to be rebuilt, nobody is asked: the run that says so has left nothing else to decide."""
        policy = self.estate.service.rejoin
        info = workflow.info()
        run = f"database-rejoin/{self.service_name}/{member}/{workflow.now():%Y%m%dT%H%M%S}"
        request = RejoinRequest(
            service=self.service_name,
            reason=f"after {info.workflow_id}",
            approval="always" if policy.when == "on-approval" and not rebuild else "policy",
            member=member,
            rebuild=rebuild,
            predicted=self.lost_by(),
            wait_s=policy.wait_s,
        )
        await workflow.start_child_workflow(
            "DatabaseRejoin",
            request,
            id=run,
            task_queue=attributes.TASK_QUEUE,
            task_timeout=attributes.TASK_TIMEOUT,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
            cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
        )
        return run


class Protecting(DatabaseRunbook):
    """Members that cascade, the synchronous set, and the look at whether the estate is protected."""

    async def lead_cascade(self, member: str) -> list[str]:
        """Members that are declared to follow this one do so again."""
        names = [each.name for each in self.estate.service.members if each.follows == member]
        if not names:
            return []
        order = FollowOrder(service=self.estate.service, leader=member, members=names, epoch=self.record.epoch)
        return (await self.do(fencing.follow_leader, order, limit=30, total=60)).following

    async def restore_set(self) -> str:
        """The synchronous set that the policy wants, of members that stream; record and setting in their order."""
        service = self.estate.service
        for _ in range(SET_ROUNDS):
            seen = await self.observe()
            leader = next((each for each in seen.members if each.member == self.record.leader), None)
            if seen.record is None or leader is None:
                break
            self.record = seen.record
            change = next_set(service, seen.record, leader, missing_since={}, now=workflow.now())
            if change is None:
                break
            await carry_out_change(
                service, self.estate.zone, seen.record, change, seen.record.epoch, act=self.do_change
            )
        return f"{self.record.w} of {', '.join(self.record.voters) or 'nobody'} acknowledge"

    async def do_change(self, activity: object, order: object) -> object:
        return await self.do(activity, order, limit=10, total=30, heartbeat=None)  # type: ignore[arg-type]

    async def look_at_protection(self) -> tuple[Observation, list[str]]:
        seen = await self.observe()
        return seen, what_is_missing(self.estate.service, seen.record or self.record, seen.members)
