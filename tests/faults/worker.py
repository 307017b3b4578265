"""A worker that strikes before or after an activity's effect, or inside it: the product has no hook for it.

`python -m tests.faults.worker --plan FILE …` takes the arguments of workers.main. The plan is JSON: `activity`, or
`inside` (a function of the product, `module:name`, after which it strikes); `when`: before or after; `workflow`: whose
activity (DatabaseFailover); `of`: what the order's fields must be; `strike`: kill or freeze this worker, kill the
process `pid`, the `server` that the function's session leads to, or the server of the first `survivor` that a promotion
waits for; of `member` (else an order's leader) `start` the node, or kill it (`kill-node`), or end or freeze what it
receives with (`cut-off`, `freeze-receiver`); `lab`: the lab's folder; `done`: a file that is made first, so that of all
workers and attempts exactly one strikes.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import psycopg
from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from lab import faults
from lab.model import Lab
from lab.secrets import SUPERUSER
from workers import main as product

Plan = dict[str, Any]


def strike(plan: Plan, order: Any = None) -> None:
    try:
        os.close(os.open(plan["done"], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return
    Path(plan["done"]).write_text(str(os.getpid()), encoding="utf-8")
    match plan["strike"]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "pid":
            os.kill(int(plan["pid"]), signal.SIGKILL)
        case "survivor":
            os.kill(postmaster_of(plan["lab"], order.survivors[0]), signal.SIGKILL)
        case "start":
            faults.start(Lab.load(Path(plan["lab"])), plan["member"], force=True)
        case "kill-node":
            faults.kill(Lab.load(Path(plan["lab"])), plan.get("member") or order.leader)
        case "freeze-node":
            faults.freeze(Lab.load(Path(plan["lab"])), plan["member"])
        case "cut-off":
            cut_off(Lab.load(Path(plan["lab"])), plan["member"])
        case "freeze-receiver":
            for each in processes_of(plan["lab"], plan["member"], "walreceiver"):
                os.kill(each, signal.SIGSTOP)


class Striking(Interceptor):
    """Wraps every activity of the worker."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Around(next, self.plan)


class _Around(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, plan: Plan) -> None:
        super().__init__(next)
        self.plan = plan

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        # Only in such a run: the watch uses some of the same activities.
        wanted = (self.plan.get("activity"), self.plan.get("workflow", "DatabaseFailover"))
        hit = (input.fn.__name__, activity.info().workflow_type) == wanted
        hit = hit and all(getattr(input.args[0], name) == value for name, value in self.plan.get("of", {}).items())
        if hit and self.plan["when"] == "before":
            strike(self.plan, input.args[0])
        result = await super().execute_activity(input)
        if hit and self.plan["when"] == "after":
            strike(self.plan, input.args[0])
        return result


def postmaster_of(lab: str, member: str) -> int:
    """The process that was started on the member's data folder."""
    for process in psutil.process_iter(["cmdline"]):
        argv = process.info["cmdline"] or []
        if len(argv) > 2 and argv[1] == "-D" and argv[2].startswith(lab) and Path(argv[2]).parent.name == member:
            return int(process.pid)
    raise LookupError(member)


def processes_of(lab: str, member: str, title: str) -> list[int]:
    """A member's processes of one kind, by the title that PostgreSQL gives them."""
    postmaster = psutil.Process(postmaster_of(lab, member))
    return [each.pid for each in postmaster.children() if title in " ".join(each.cmdline())]


def cut_off(lab: Lab, member: str) -> None:
    """Nothing more reaches the standby; returns once its receiver has ended."""
    node = lab.node(member)
    where = {"host": node.host, "port": node.port, "user": SUPERUSER, "password": lab.secret(SUPERUSER)}
    with psycopg.connect(dbname="postgres", sslmode="disable", autocommit=True, **where) as conn:
        conn.execute("ALTER SYSTEM SET primary_conninfo = ''")
        conn.execute("SELECT pg_reload_conf()")
        until = time.monotonic() + 5
        while conn.execute("SELECT EXISTS (SELECT FROM pg_stat_wal_receiver)").fetchone() == (True,):
            assert time.monotonic() < until, f"{member} still receives"
            time.sleep(0.01)


def strike_inside(plan: Plan) -> None:
    """Wrap one function of the product, so that the worker strikes once it has returned true."""
    module, _, name = plan["inside"].partition(":")
    home = importlib.import_module(module)
    inner = getattr(home, name)

    @functools.wraps(inner)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal plan
        result = await inner(*args, **kwargs)
        if result and plan["strike"] == "server":
            # The server that the session in hand leads to, its postmaster first.
            backend = psutil.Process(await args[0].fetchval("SELECT pg_backend_pid()"))
            plan |= {"strike": "pid", "pid": backend.ppid()}
        if result:
            strike(plan)
        return result

    setattr(home, name, wrapped)


def main() -> int:
    place = sys.argv.index("--plan")
    plan: Plan = json.loads(Path(sys.argv[place + 1]).read_text(encoding="utf-8"))
    if "inside" in plan:
        strike_inside(plan)
    make = product.make_workers
    product.make_workers = lambda client, region, given: make(client, region, [*given, Striking(plan)])  # type: ignore[assignment, misc]
    return product.main(sys.argv[1:place] + sys.argv[place + 2 :])


if __name__ == "__main__":
    raise SystemExit(main())
