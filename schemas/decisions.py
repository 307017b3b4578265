"""What the policies conclude. Each carries the text that an operator will read at 3 a.m."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from schemas.base import Fact


class Death(Fact):
    """Whether the primary is dead. `ask`: unreachable, but something speaks against death or nothing speaks for it."""

    state: Literal["dead", "alive", "wait", "ask"]
    reason: str
    votes: dict[str, str] = {}
    """Region → outcome of its probe."""
    testimony: dict[str, str] = {}
    """Direct standby → what it hears from the primary."""
    wait_s: float = 0.0
    """With `wait`: look again after this long."""
    gone_at: datetime | None = None
    """With `dead`: by then every region that has a vote had seen that nothing listens at its port. None: it may live on
    unseen."""


class Verdict(Fact):
    """What promoting the candidate can lose, before it is done. `unknown` is never shown as 0."""

    kind: Literal["none", "bounded", "unknown"]
    reason: str
    at_most_bytes: int | None = None
    at_most_s: float | None = None

    @property
    def in_time_only(self) -> bool:
        """Bounded in seconds, and not in bytes: what the old primary had written is not known."""
        return self.kind == "bounded" and self.at_most_bytes is None

    def text(self) -> str:
        """`none`, `bounded: at most 2944 bytes, 1.2 s`, or `unknown`."""
        if self.kind != "bounded":
            return self.kind
        bounds = []
        if self.at_most_bytes is not None:
            bounds.append(f"{self.at_most_bytes} bytes")
        if self.at_most_s is not None:
            bounds.append(f"{self.at_most_s:.1f} s")
        return "bounded: at most " + ", ".join(bounds)


class Choice(Fact):
    """The candidate, or the reason why there is none, and why each other member was passed over."""

    candidate: str | None
    reason: str
    passed_over: dict[str, str] = {}
    open_to: list[str] = []
    """Who may turn out to be the furthest once all are disconnected; empty where one member was asked for by name."""
    leads: bool = False
    """The candidate leads already, by an earlier run's decision."""


class Assessment(Fact):
    """What a decision is made on. `digest` covers suspect, voters, w, candidate and the verdict's bound."""

    suspect: str
    death: Death
    choice: Choice
    verdict: Verdict
    w: int
    voters: list[str]
    survivors: list[str] = []
    """Voters that will confirm the candidate's commits after the promotion."""
    digest: str


class Go(Fact):
    """What the policy says about going on."""

    action: Literal["go", "ask", "refuse", "stop"]
    """`ask` a person; `refuse`: only an override on record goes on; `stop`: nothing to do."""
    reason: str


class Question(Fact):
    """A question to a person, as it is shown everywhere."""

    text: str
    digest: str
    asked: datetime
    expires: datetime
    decide_by: datetime | None = None
    approvers: list[str] = []
    quorum: int = 1
    needs_override: bool = False
    choices: list[str] = []
    """What an approval may choose; the first where it says nothing."""


class Fence(Fact):
    """How strongly the old primary is kept from acknowledging, and what shows it."""

    strength: Literal["stopped", "isolated", "stalled", "disconnected", "none"]
    evidence: str
    proved: bool = False
