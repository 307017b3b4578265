"""The lab's life: up, reset, down. `status`, faults and the current lab are re-exported: this is the lab's front."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab import network, plain, pointer, processes, routing
from lab.assembly import Say, build, settle, start, start_estate
from lab.binaries import Binaries, find_all
from lab.errors import LabError
from lab.estate import Overrides, write_topology
from lab.faults import fault, heal, partition
from lab.jaeger import traces_at
from lab.layout import EXTRAS, LOOPBACK, SERVICES, USUAL, choose_base_port, nodes, profile_of, shape_of, ui_port
from lab.model import Lab, TemporalAt
from lab.observe import status
from lab.paths import PARENT, PREFIX, Folder
from lab.pointer import current
from lab.secrets import make_secrets
from lab.supervise import Supervisor, SupervisorGone
from lab.watch import connect, end_runs, start_watch, until_temporal
from schemas.failures import TopologyInvalid

__all__ = [
    "Lab",
    "connect",
    "current",
    "down",
    "fault",
    "heal",
    "is_running",
    "partition",
    "reset",
    "start_watch",
    "status",
    "up",
]


def _quiet(_: str) -> None:
    return


async def up(
    profile: str = "database",
    *,
    shape: str = USUAL,
    netns: bool = False,
    watch: bool = True,
    workers: bool = True,
    extras: Sequence[str] = (),
    metrics: bool = True,
    detection_interval: float | None = None,
    overrides: Overrides | None = None,
    cache_overrides: Overrides | None = None,
    queue_overrides: Overrides | None = None,
    make_current: bool = True,
    say: Say = _quiet,
) -> Lab:
    """Start a lab and return once it is ready; LabError says what did not come, and nothing is left running then.

    `profile` and `shape` are of lab/layout.py. `detection_interval` of the database in seconds (0.2). `overrides` are
    fields of the database to declare otherwise (lab/estate.py), `cache_overrides` and `queue_overrides` those of the
    others. Without `workers` no product runs, and so no watch either. `extras` run beside the profile; with `metrics`
    each worker serves Prometheus on a port of its own.
    """
    wanted = profile_of(profile)
    shape_of(shape).planned(wanted.parts)
    unknown = sorted(set(extras) - set(EXTRAS))
    if unknown:
        raise LabError(f"there is no {unknown[0]} to go with a lab; one of: {', '.join(EXTRAS)}")
    if plain.EXTRA in extras and "backup" not in wanted.parts:
        raise LabError(f"there are no backups in the profile {profile} that could be plain; take the profile backup")
    if netns:
        network.require_root()
    extras = [*wanted.extras, *extras]
    binaries = find_all(extras, wanted.parts)
    changes: dict[str, Any] = dict(overrides or {})
    if detection_interval is not None:
        changes["detection"] = {**changes.get("detection", {}), "interval_s": detection_interval}
    lab = _prepare(
        profile,
        shape,
        binaries,
        netns=netns,
        watch=watch and workers,
        workers=workers,
        extras=list(dict.fromkeys(extras)),
        metrics=metrics,
        overrides=changes,
        cache_overrides=dict(cache_overrides or {}),
        queue_overrides=dict(queue_overrides or {}),
    )
    try:
        say(f"Lab in {lab.folder}")
        await build(lab, binaries, say)
    except LabError as error:
        await asyncio.shield(_keep_logs(lab))
        raise LabError(f"{error.detail}; all of the lab's logs are kept in {lab.folder}/logs") from error
    except BaseException:
        await asyncio.shield(down(lab))
        raise
    lab = await _with_pids(lab)
    if make_current:
        pointer.point_at(lab)
    return lab


async def _keep_logs(lab: Lab) -> None:
    """End a lab that did not come up, all but its logs, which say why."""
    await down(lab, keep=True)
    for path in (lab.paths.nodes, lab.paths.pristine, lab.paths.home, lab.secrets):
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
    lab.paths.lab_file.unlink(missing_ok=True)


def _prepare(
    profile: str,
    shape: str,
    binaries: Binaries,
    *,
    netns: bool,
    watch: bool,
    workers: bool,
    extras: list[str],
    metrics: bool,
    overrides: dict[str, Any],
    cache_overrides: dict[str, Any],
    queue_overrides: dict[str, Any],
) -> Lab:
    """A new lab's folder with its secrets, topology and lab.json; nothing runs yet."""
    folder = _new_folder()
    make_secrets(folder)
    prefix = network.choose_network() if netns else LOOPBACK
    parts = list(profile_of(profile).parts)
    base = choose_base_port(shape_of(shape), parts)
    found = {each.name: each for each in nodes(shape_of(shape), prefix, base, extras, parts=parts, metrics=metrics)}
    services = {part: SERVICES[part] for part in parts if part in SERVICES}
    lab = Lab(
        folder=folder.root,
        profile=profile,
        parts=parts,
        shape=shape,
        created=datetime.now(UTC),
        network=prefix,
        netns=netns,
        base_port=base,
        service=services[parts[0]],
        services=services,
        temporal=TemporalAt(
            address=found["temporal"].address,
            ui=f"http://{found['temporal'].host}:{ui_port(base)}",
            cli=str(binaries.temporal),
        ),
        nodes=list(found.values()),
        routes=routing.routes(folder, parts, list(found.values())),
        reads=routing.reads(folder, parts, list(found.values())),
        dns=next(each.address for each in found.values() if each.kind == "knot"),
        pg_bin=binaries.pg_bin,
        topology=folder.topology,
        secrets=folder.secrets,
        ledger=folder.ledger,
        watch=watch,
        workers=workers,
        extras=extras,
        traces=traces_at(found["jaeger"]) if "jaeger" in extras else None,
        overrides=overrides,
        cache_overrides=cache_overrides,
        queue_overrides=queue_overrides,
    )
    try:
        write_topology(lab)
    except ValueError as error:
        shutil.rmtree(folder.root)
        given = overrides | cache_overrides | queue_overrides
        raise TopologyInvalid(f"that of the lab in {folder.root}, with {given}: {error}") from error
    lab.save()
    return lab


def _new_folder() -> Folder:
    """A short path, which the servers' user can pass through, under a name that nobody has."""
    root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PARENT))
    folder = Folder(root)
    folder.make()
    return folder


async def _with_pids(lab: Lab) -> Lab:
    found = await status(lab)
    pids = {each.name: each.pid for each in found.nodes}
    lab = lab.model_copy(update={"nodes": [n.model_copy(update={"pid": pids[n.name]}) for n in lab.nodes]})
    lab.save()
    return lab


async def reset(
    lab: Lab,
    *,
    overrides: Overrides | None = None,
    cache_overrides: Overrides | None = None,
    queue_overrides: Overrides | None = None,
    watch: bool | None = None,
    say: Say = _quiet,
) -> Lab:
    """The estate as `up` left it, from kept copies, with an empty ledger; Temporal and Jaeger keep their histories.

    The load is stopped, and every open run terminated. The overrides come on top of the lab's own until the next
    reset; `watch` says for this time whether the watch is started.
    """
    from lab import load

    say("Load and runs are ended, faults undone")
    await asyncio.to_thread(load.forget, lab)
    await heal(lab)
    for each in lab.nodes:
        lab.paths.autostart_mark(each.name).unlink(missing_ok=True)
    kept = [each.name for each in lab.of_kind("temporal", "jaeger")]
    await start(lab, kept)
    client = await until_temporal(lab)
    await end_runs(lab, client)
    # An activity that was under way must not act on the new estate, so the workers begin anew as well.
    running_on = [*kept, *(each.name for each in lab.of_kind("rabbitmq", "epmd"))]
    killed = [each.name for each in lab.nodes if each.name not in running_on]
    await asyncio.to_thread(processes.kill, lab.paths, *killed)
    write_topology(lab, overrides, cache_overrides, queue_overrides)
    if lab.workers:
        await start(lab, [each.name for each in lab.of_kind("worker")])
    await start_estate(lab, say)
    await settle(lab.model_copy(update={} if watch is None else {"watch": watch and lab.workers}), client, say)
    return await _with_pids(lab)


def is_running(lab: Lab) -> bool:
    """Whether the lab's supervisor runs; after a reboot the current lab is only a folder."""
    return processes.supervisor(lab.paths) is not None


async def down(lab: Lab, *, keep: bool = False, say: Say = _quiet) -> None:
    """End every process of the lab; its folder goes too, unless `keep`. Nothing to do for a lab that is gone."""
    say("Processes are ended")
    await asyncio.to_thread(_end_processes, lab)
    await asyncio.to_thread(network.remove, lab)
    if not keep:
        await asyncio.to_thread(shutil.rmtree, lab.folder, ignore_errors=True)
    pointer.forget(lab)


def _end_processes(lab: Lab) -> None:
    from lab import load

    with contextlib.suppress(OSError):
        load.stop(lab)
    supervisor = processes.supervisor(lab.paths)
    # Once it shuts down, it starts nothing again, and reaps what is killed.
    with contextlib.suppress(SupervisorGone):
        Supervisor(lab.paths).shutdown()
    processes.kill(lab.paths, *(each.name for each in lab.nodes))
    if supervisor is not None:
        processes.until_gone(supervisor)
