"""The lock of a service: it is held for as long as the run that started it is open."""

from __future__ import annotations

from temporalio import workflow


@workflow.defn(name="Lock")
class Lock:
    """Waits until its parent closes, which terminates it."""

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)
