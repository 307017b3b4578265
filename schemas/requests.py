"""What people and programs may ask: starts, approvals and the operator's verbs."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from schemas.base import Declared, Fact, Name
from schemas.facts import Probe
from schemas.orders import Observation


class Suspicion(Fact):
    """Why the watch started a run: the first failed probe, and the regions that counted to their limit."""

    member: str
    first_failure: datetime
    outage_began: datetime | None = None
    """Earlier: nobody has been served since, though a run ended meanwhile."""
    regions: list[str]
    votes: list[Probe] = []
    """The last failed probe of each of them, made while the watch counted."""
    cut_off: list[str] = []
    """Regions that had lost sight of it long before the others: their workers can't reach a part of the estate."""
    seen: Observation | None = None
    """The whole service as a region saw it before its last failed probe."""
    epoch: int | None = None
    """The epoch that this watch holds in reserve: the run need not claim another."""
    holder: str = ""
    """Who holds it, as the record says."""


class RunRequest(Declared):
    """What every runbook is started with. `approval: always` asks a person whatever the policy says."""

    service: Name
    reason: str = Field(min_length=1, max_length=2000)
    approval: Literal["policy", "always"] = "policy"
    dry_run: bool = False
    """Read for real, and only say what would be done."""

    def names(self) -> list[str]:
        """The members that it names, which must be there."""
        return []


class CandidateRequest(RunRequest):
    """The start form of DatabaseSwitchover."""

    candidate: Name | None = None

    def names(self) -> list[str]:
        return [self.candidate] if self.candidate is not None else []


class SwitchoverRequest(CandidateRequest):
    """The same as another run starts it. `read_only`: the service is so for its clients, and stays so: what verifies
    the routes is a write that insists.
    """

    read_only: bool = False


class RejoinRequest(RunRequest):
    """The start form of DatabaseRejoin."""

    member: Name
    predicted: str = ""
    """The verdict of the failover that it follows; what the epoch's record says when it is left out."""
    rebuild: str = Field(default="", max_length=200)
    """Why it is to be copied anew whatever else would do: pages of it are damaged, for instance."""
    release: str = Field(default="", max_length=200)
    """Why nobody needs what a held folder keeps, in a person's words: it is copied anew then. No run says that."""
    wait_s: float = Field(default=0.0, ge=0)
    """How long the node is waited for when it is out of reach; 0: not at all."""

    def names(self) -> list[str]:
        return [self.member]


class FailoverRequest(CandidateRequest):
    """The start form of DatabaseFailover."""

    suspicion: Suspicion | None = None
    """Set by the watch; a person leaves it out."""


class WatchRequest(Fact):
    service: Name
    blocked_until: datetime | None = None
    """Carried over when the watch continues as new: no run starts before."""
    down_since: datetime | None = None
    """The same of an outage that the run before did not end,"""
    down_leader: Name | None = None
    """and of whoever led then."""


class Answer(Declared):
    """A person's answer to the question that a run asks. `digest` binds it to what they saw."""

    by: str = Field(min_length=1, max_length=200)
    digest: str = Field(default="", max_length=64)
    """Needed. A signal without it is taken all the same, so that the run's journal can say why it does not count."""
    reason: str = Field(default="", max_length=2000)
    override: bool = False
    """Go on although the policy refuses; kept on record with the reason, which is then needed."""
    choice: str = Field(default="", max_length=40)
    """Of an approval, where the question offers a choice: another than the first."""


class Verb(Declared):
    """An operator's `hold`, `resume`, `retry`, `skip` or `abort`."""

    by: str = Field(min_length=1, max_length=200)
    reason: str = Field(default="", max_length=2000)


class WayRequest(Fact):
    """A run asks another for the service. `urgent`: a failover asks, since the primary is dead."""

    by: str
    reason: str = ""
    urgent: bool = False
