"""Facts for the tests of the policies: the lab's estate in numbers, with positions in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.decisions import Death
from schemas.facts import EpochRecord, MemberFacts, Probe, Receiver, Standby
from schemas.topology import DatabaseService

T0 = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
"""The first failed probe."""
REGIONS = ("us-east-1", "us-west-2", "eu-west-1")
SYSTEM = "7300000000000000001"
E1, E2, E3, E4, W1, W2 = "pg-east-1", "pg-east-2", "pg-east-3", "pg-east-4", "pg-west-1", "pg-west-2"
HOSTS = {E1: "127.0.1.1", E2: "127.0.1.2", E3: "127.0.1.3", E4: "127.0.1.4", W1: "127.0.2.1", W2: "127.0.2.2"}
PORT = 6000
DEAD = Death(state="dead", reason="3 of 3 regions fail")


def after(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def service(**changed: Any) -> DatabaseService:
    """pg-east-1 leads under `ANY 1` of pg-east-2 and pg-east-3; four east, one west, one that cascades from it."""
    declared: dict[str, Any] = {
        "name": "counting-db",
        "rto_s": 300,
        "rpo_s": 60,
        "home": E1,
        "members": [
            {
                "name": name,
                "host": host,
                "port": PORT,
                "region": "us-west-2" if name in (W1, W2) else "us-east-1",
                "follows": W1 if name == W2 else None,
            }
            for name, host in HOSTS.items()
        ],
        "access": {"database": "counting"},
        "synchronous": {"policy": "required", "acknowledgements": 1, "voters": [E1, E2, E3], "lost_after_s": 5},
        "detection": {"interval_s": 0.2, "failures": 3, "quorum": 2},
    }
    for key, value in changed.items():
        if isinstance(value, dict) and key in declared:
            declared[key] = {**declared[key], **value}
        else:
            declared[key] = value
    return DatabaseService.model_validate(declared)


def address(name: str) -> str:
    return f"{HOSTS[name]}:{PORT}"


def receiver(of: str = E1, *, silent_s: float = 0.1, timeout_s: float = 4.0) -> Receiver:
    return Receiver(sender_host=HOSTS[of], sender_port=PORT, status="streaming", silent_s=silent_s, timeout_s=timeout_s)


def standby(name: str, position: int = 1000, **changed: Any) -> MemberFacts:
    """A standby that follows pg-east-1 and has no receiver any more."""
    facts: dict[str, Any] = {
        "member": name,
        "at": after(0.6),
        "reachable": True,
        "in_recovery": True,
        "system_identifier": SYSTEM,
        "timeline": 1,
        "received": position,
        "replayed": position,
        "follows": address(W1 if name == W2 else E1),
    }
    return MemberFacts.model_validate(facts | changed)


def gone(name: str) -> MemberFacts:
    return MemberFacts(member=name, at=after(0.6), reachable=False, error="connection refused")


def leader(
    name: str = E1, written: int = 1000, *, names: str = "", streaming: Iterable[str] = (), **changed: Any
) -> MemberFacts:
    facts: dict[str, Any] = {
        "member": name,
        "at": after(0.6),
        "reachable": True,
        "in_recovery": False,
        "system_identifier": SYSTEM,
        "timeline": 1,
        "written": written,
        "synchronous_names": names,
        "standbys": [Standby(name=each, state="streaming", sync_state="quorum", flushed=written) for each in streaming],
    }
    return MemberFacts.model_validate(facts | changed)


def record(w: int = 1, voters: Sequence[str] = (E2, E3), **changed: Any) -> EpochRecord:
    return EpochRecord.model_validate(
        {"epoch": 4, "run": "run-4", "leader": E1, "w": w, "voters": list(voters)} | changed
    )


def probes(*outcomes: str, member: str = E1) -> list[Probe]:
    """One probe a region, in the order of REGIONS."""
    return [
        Probe.model_validate({"region": region, "member": member, "at": T0, "outcome": outcome})
        for region, outcome in zip(REGIONS, outcomes, strict=False)
    ]
