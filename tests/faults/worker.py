"""A worker that kills something before or after an activity's effect: the product has no hook for it.

`python -m tests.faults.worker --plan FILE …` takes the arguments of workers.main. The plan is JSON:
{"activity": name, "when": "before"|"after", "kill": "worker"|"temporal"|"freeze", "pid_file": …, "done": FILE}. It is
carried out once, by whichever worker comes first, and `done` is written before.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from workers import main as product


class Fault(Interceptor):
    """Wraps every activity of the worker."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Around(next, self.plan)


class _Around(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, plan: dict[str, Any]) -> None:
        super().__init__(next)
        self.plan = plan

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        hit = input.fn.__name__ == self.plan["activity"]
        if hit and self.plan["when"] == "before":
            self.strike()
        result = await super().execute_activity(input)
        if hit and self.plan["when"] == "after":
            self.strike()
        return result

    def strike(self) -> None:
        try:
            # Exclusive creation: of all workers and attempts exactly one strikes.
            os.close(os.open(self.plan["done"], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return
        if self.plan["kill"] == "worker":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.plan["kill"] == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.plan["kill"] == "temporal":
            os.kill(int(self.plan["pid"]), signal.SIGKILL)


def main() -> int:
    place = sys.argv.index("--plan")
    path = Path(sys.argv[place + 1])
    arguments = sys.argv[1:place] + sys.argv[place + 2 :]
    if path.exists():
        plan = json.loads(path.read_text(encoding="utf-8"))
        make = product.make_workers
        product.make_workers = lambda client, region: make(client, region, [Fault(plan)])  # type: ignore[assignment]
    return product.main(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
