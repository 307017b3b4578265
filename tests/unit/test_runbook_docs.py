"""Each written runbook has the steps of its workflow as its headings, in order and word for word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workflows.backup_take import BackupTake
from workflows.backup_verify import BackupVerify
from workflows.cache_failover import CacheFailover
from workflows.cache_switchover import CacheFailback, CacheSwitchover
from workflows.corruption_recovery import CorruptionRecovery
from workflows.cut_over import CutOver
from workflows.database_failover import DatabaseFailover
from workflows.database_rejoin import DatabaseRejoin
from workflows.database_switchover import DatabaseFailback, DatabaseSwitchover
from workflows.pitr_restore import PitrRestore
from workflows.queue_drain import QueueDrain
from workflows.queue_failover import QueueFailover
from workflows.queue_switchover import QueueFailback, QueueSwitchover

ROOT = Path(__file__).parents[2]
RUNBOOKS: list[tuple[str, Any]] = [
    ("backup_verify", BackupVerify),
    ("corruption_recovery", CorruptionRecovery),
    ("backup_take", BackupTake),
    ("cut_over", CutOver),
    ("cache_failover", CacheFailover),
    ("cache_switchover", CacheSwitchover),
    ("cache_switchover", CacheFailback),
    ("database_failover", DatabaseFailover),
    ("database_rejoin", DatabaseRejoin),
    ("database_switchover", DatabaseSwitchover),
    ("database_switchover", DatabaseFailback),
    ("pitr_restore", PitrRestore),
    ("queue_drain", QueueDrain),
    ("queue_failover", QueueFailover),
    ("queue_switchover", QueueSwitchover),
    ("queue_switchover", QueueFailback),
]


@pytest.mark.parametrize(("page", "workflow"), RUNBOOKS)
def test_the_headings_of_the_runbook_are_the_steps_of_the_workflow(page: str, workflow: Any) -> None:
    text = (ROOT / f"docs/runbooks/{page}.md").read_text(encoding="utf-8")
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert headings == list(workflow.titles)


@pytest.mark.parametrize(("page", "workflow"), RUNBOOKS)
def test_no_step_of_the_runbook_is_empty(page: str, workflow: Any) -> None:
    text = (ROOT / f"docs/runbooks/{page}.md").read_text(encoding="utf-8")
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        assert len(body.split()) >= 10, title
