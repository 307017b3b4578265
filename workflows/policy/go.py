"""May the run go on? By policy alone, by asking a person, or only over a person's override on record."""

from __future__ import annotations

from typing import Literal

from schemas.decisions import Assessment, Go, Verdict
from schemas.topology import DatabaseService
from workflows.policy.candidate import is_across


def may_go(
    service: DatabaseService,
    assessment: Assessment,
    *,
    approval: Literal["policy", "always"],
    automatic: bool,
    suspect_alive: bool,
) -> Go:
    """`automatic`: the watch started the run, and no person; `suspect_alive`: the primary answers.

    A refusal carries what would have been asked as well, since an override decides on all of it. Without a candidate
    there is nothing that an override could promote.
    """
    suspect, candidate = assessment.suspect, assessment.choice.candidate
    if automatic and (assessment.death.state == "alive" or suspect_alive):
        return Go(action="stop", reason=f"no failover is needed: {assessment.death.reason}")
    if candidate is None:
        return Go(action="refuse", reason=f"there is nothing to promote: {assessment.choice.reason}")
    asks = _asks(service, assessment, approval, suspect_alive)
    refusal = _refusal(service, assessment)
    if refusal is not None:
        return Go(action="refuse", reason="; ".join([refusal, *asks]))
    if asks:
        return Go(action="ask", reason="; ".join(asks))
    return Go(
        action="go",
        reason=f"{suspect} is dead, {candidate} takes over, loss {assessment.verdict.text()}: the policy asks nobody",
    )


def _refusal(service: DatabaseService, assessment: Assessment) -> str | None:
    """Invariant 4: R + W > N, or a person's recorded override. `max_loss_bytes` speaks for asynchronous sets only:
    where voters exist and the inequality fails, the old primary may go on acknowledging, and no bound holds."""
    verdict = assessment.verdict
    if verdict.kind == "none":
        return None
    if not assessment.voters and _is_accepted(verdict, service.failover.max_loss_bytes):
        return None
    what = "isn't known" if verdict.kind == "unknown" else f"is {verdict.text()}"
    return f"acknowledged writes may be lost, how much {what}; only an override on record goes on: {verdict.reason}"


def _is_accepted(verdict: Verdict, most: int) -> bool:
    return (
        most > 0 and verdict.kind == "bounded" and verdict.at_most_bytes is not None and verdict.at_most_bytes <= most
    )


def _asks(
    service: DatabaseService, assessment: Assessment, approval: Literal["policy", "always"], suspect_alive: bool
) -> list[str]:
    """Every reason to ask a person, in the order of their weight."""
    suspect, candidate, state = assessment.suspect, assessment.choice.candidate, assessment.death.state
    asks: list[str] = []
    if suspect_alive or state == "alive":
        asks.append(
            f"{suspect} is alive: going on holds its poolers, disconnects its standbys so that it acknowledges no more,"
            " ends its sessions and stops it"
        )
    elif state != "dead":
        asks.append(f"{suspect} is not known to be dead: {assessment.death.reason}")
    if service.synchronous.policy == "required" and not assessment.survivors:
        asks.append(
            f"no other voter is left to follow {candidate}: it would acknowledge alone, although the synchronous"
            " policy is `required`"
        )
    if (
        candidate is not None
        and service.failover.cross_region == "ask"
        and is_across(service, suspect, candidate)
        and not assessment.choice.leads
    ):
        asks.append(
            f"{candidate} is in {service.member(candidate).region}, and the topology lets no failover leave"
            f" {service.member(suspect).region} without a person (failover.cross_region is `ask`)"
        )
    if not service.failover.automatic:
        asks.append("the topology lets no failover of this service happen without a person")
    if approval == "always":
        asks.append("whoever started the run wants it approved")
    return asks
