"""The written runbook has the steps of the workflow as its headings, in order and word for word."""

from __future__ import annotations

from pathlib import Path

from workflows.database_failover import DatabaseFailover

ROOT = Path(__file__).parents[2]


def test_the_headings_of_the_runbook_are_the_steps_of_the_workflow() -> None:
    text = (ROOT / "docs/runbooks/database_failover.md").read_text(encoding="utf-8")
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert headings == list(DatabaseFailover.titles)


def test_no_step_of_the_runbook_is_empty() -> None:
    text = (ROOT / "docs/runbooks/database_failover.md").read_text(encoding="utf-8")
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        assert len(body.split()) > 15, title
