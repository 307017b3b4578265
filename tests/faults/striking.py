"""The test's own workers in the place of the lab's, and the plan that they strike by."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from temporalio.client import Client

from lab import lab as labs
from lab.layout import RESTORES
from lab.model import Lab
from lab.watch import until_temporal
from lab.world import worker_env
from tests.faults.cache_scene import CacheScene
from tests.faults.queue_scene import QueueScene
from tests.faults.restore_scene import RestoreScene
from tests.faults.scene import Scene

ROOT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def striking_scene(
    lab: Lab, env: Mapping[str, str] | None = None, **plan: Any
) -> AsyncIterator[tuple[Scene, Path]]:
    """A scene whose workers carry the plan; yields it and the file that is made when they strike.

    `env` comes on top of what the lab's own workers are given. Their log is beside that file.
    """
    lab = await labs.reset(lab, overrides={"rejoin": {"when": "by-hand"}}, watch=False)
    async with _striking(lab, env, plan) as (client, done):
        yield Scene(lab, client), done


@contextlib.asynccontextmanager
async def striking_cache(
    lab: Lab, overrides: Mapping[str, Any] | None = None, **plan: Any
) -> AsyncIterator[tuple[CacheScene, Path]]:
    """The same of the cache; `overrides` are fields of it to declare otherwise."""
    lab = await labs.reset(lab, cache_overrides=overrides, watch=False)
    async with _striking(lab, None, plan) as (client, done):
        yield CacheScene(lab, client), done


@contextlib.asynccontextmanager
async def striking_queue(lab: Lab, **plan: Any) -> AsyncIterator[tuple[QueueScene, Path]]:
    """The same of the queue."""
    lab = await labs.reset(lab, watch=False)
    async with _striking(lab, None, plan) as (client, done):
        yield QueueScene(lab, client), done


@contextlib.asynccontextmanager
async def striking_restore(lab: Lab, **plan: Any) -> AsyncIterator[tuple[RestoreScene, Path]]:
    """The same of the database with its backups; where a copy is restored there is a second worker."""
    lab = await labs.reset(lab, overrides={"rejoin": {"when": "by-hand"}}, watch=False)
    async with _striking(lab, None, plan, spare=[lab.node(RESTORES).region]) as (client, done):
        yield RestoreScene(lab, client), done


@contextlib.asynccontextmanager
async def _striking(
    lab: Lab, env: Mapping[str, str] | None, plan: dict[str, Any], *, spare: Sequence[str] = ()
) -> AsyncIterator[tuple[Client, Path]]:
    """The lab's workers are replaced by those that strike, and the watch runs on them. `spare`: regions of one more."""
    for region in lab.regions:
        await labs.fault(lab, "stop", f"worker-{region}")
    folder = Path(tempfile.mkdtemp(prefix="plan-", dir=lab.folder))  # goes with the lab
    done = folder / "done"
    if plan.get("strike") == "pid":
        victim = plan.pop("node", "temporal")
        plan["pid"] = next(node.pid for node in (await labs.status(lab)).nodes if node.name == victim)
    (folder / "plan.json").write_text(json.dumps(plan | {"done": str(done), "lab": str(lab.folder)}), encoding="utf-8")
    workers = []
    with (folder / "workers.log").open("wb") as log:
        for number, region in enumerate([*lab.regions, *spare]):
            argv = [sys.executable, "-m", "tests.faults.worker", "--plan", str(folder / "plan.json")]
            argv += ["--region", region, "--topology", str(lab.topology)]
            node = lab.node(f"worker-{region}")
            if number >= len(lab.regions):
                node = node.model_copy(update={"metrics": None})  # the other one has its port
            given = worker_env(lab, node) | {"PYTHONPATH": str(ROOT)} | dict(env or {})
            workers.append(await asyncio.create_subprocess_exec(*argv, env=given, cwd=folder, stdout=log, stderr=log))
        try:
            client = await until_temporal(lab)
            await labs.start_watch(lab, client)
            yield client, done
        finally:
            for each in workers:
                if each.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each.pid, signal.SIGKILL)
                    await each.wait()
