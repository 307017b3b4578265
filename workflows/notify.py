"""Telling people, beside the run: a target that is down or slow never delays a step, and outlives no news."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import notify
    from schemas.orders import NoticeOrder

KEEP_TRYING = timedelta(hours=1)
"""After this a notice is old news; the report has it all."""
AGAIN = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=2, maximum_interval=timedelta(minutes=1))


@workflow.defn(name="Notify", failure_exception_types=[Exception])
class Notify:
    """One notice to all of its targets, each on its own. Returns what each came to, by name."""

    @workflow.run
    async def run(self, orders: list[NoticeOrder]) -> dict[str, str]:
        async def one(order: NoticeOrder) -> str:
            try:
                await workflow.execute_activity(
                    notify.deliver,
                    order,
                    start_to_close_timeout=timedelta(seconds=30),
                    schedule_to_close_timeout=KEEP_TRYING,
                    heartbeat_timeout=timedelta(seconds=5),
                    retry_policy=AGAIN,
                    summary=f"{order.notice.event}: {order.target.name}",
                )
            except ActivityError as error:
                return f"not delivered: {error.cause or error}"
            return "delivered"

        told = await asyncio.gather(*map(one, orders))
        return {order.target.name: text for order, text in zip(orders, told, strict=True)}
