"""The worker of one region: it serves the region's own queue and the queue that all regions share."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import uvloop
from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.worker import Interceptor, PollerBehaviorSimpleMaximum, Worker
from temporalio.worker.workflow_sandbox import SandboxRestrictions

from activities import (
    application,
    backup_health,
    backups,
    cache_elections,
    cache_fencing,
    cache_keeper,
    cache_moves,
    cache_probes,
    cache_survey,
    cache_warming,
    copy_checks,
    copying_back,
    damage,
    data_folder,
    dns,
    epoch,
    estate,
    fencing,
    haproxy,
    in_place,
    isolation,
    keeper,
    manifest,
    node,
    notify,
    pgpool,
    pooler,
    pooler_shares,
    privileges,
    probes,
    promotion,
    rabbit_definitions,
    rabbit_doors,
    rabbit_drain,
    rabbit_look,
    rabbit_nodes,
    rabbit_routes,
    rabbit_watch,
    read_names,
    readiness,
    reads,
    receipts,
    reports,
    restoring,
    survey,
    taking,
)
from schemas.attributes import TASK_QUEUE, region_queue
from schemas.failures import LifeboatError
from workers import gauges, logs, metrics
from workers.connect import connect
from workers.rereading import RereadingWorker
from workers.run_ends import RunEnds
from workflows.backup_take import BackupTake
from workflows.backup_verify import BackupVerify
from workflows.cache_failover import CacheFailover
from workflows.cache_switchover import CacheFailback, CacheSwitchover
from workflows.cache_watch import CacheWatch
from workflows.corruption_recovery import CorruptionRecovery
from workflows.cut_over import CutOver
from workflows.database_failover import DatabaseFailover
from workflows.database_ready import DatabaseReady
from workflows.database_rejoin import DatabaseRejoin
from workflows.database_switchover import DatabaseFailback, DatabaseSwitchover
from workflows.keeping import KeepReport
from workflows.lock import Lock
from workflows.notify import Notify
from workflows.pitr_restore import PitrRestore
from workflows.queue_drain import QueueDrain
from workflows.queue_failover import QueueFailover
from workflows.queue_switchover import QueueFailback, QueueSwitchover
from workflows.queue_watch import QueueWatch
from workflows.watch import Watch

log = logging.getLogger("lifeboat.worker")

WORKFLOWS: list[type] = [
    BackupTake,
    BackupVerify,
    CacheFailback,
    CacheFailover,
    CacheSwitchover,
    CacheWatch,
    CorruptionRecovery,
    CutOver,
    DatabaseFailback,
    DatabaseFailover,
    DatabaseReady,
    DatabaseRejoin,
    DatabaseSwitchover,
    KeepReport,
    Lock,
    Notify,
    PitrRestore,
    QueueDrain,
    QueueFailback,
    QueueFailover,
    QueueSwitchover,
    QueueWatch,
    Watch,
]
ACTIVITIES: list[Any] = [
    application.tell_application,
    application.write_configuration,
    backup_health.look_at_backups,
    backups.archive_what_is_written,
    backups.open_archive,
    backups.read_repository,
    backups.read_wal,
    cache_elections.let_sentinel_elect,
    cache_elections.until_calm,
    cache_elections.until_elected,
    cache_fencing.fence_master,
    cache_fencing.restore_fences,
    cache_fencing.unfence_master,
    cache_fencing.until_equal,
    cache_keeper.keep_watch_of_returns,
    cache_moves.follow_master,
    cache_moves.forget_strangers,
    cache_moves.promote_alone,
    cache_moves.set_monitor,
    cache_probes.probe_master,
    cache_probes.verify_cache_routes,
    cache_probes.watch_master,
    cache_survey.look_at_cache_from_region,
    cache_survey.observe_cache,
    cache_warming.count_lost_keys,
    cache_warming.warm_cache,
    copy_checks.ask_owner,
    copy_checks.check_pages,
    copy_checks.check_structure,
    copy_checks.look_at_newest,
    copying_back.copy_back,
    copying_back.hand_over,
    copying_back.sweep_copies,
    copying_back.take_back,
    damage.ask_leader,
    damage.check_member,
    damage.look_at_newest_rows,
    damage.make_read_only,
    damage.watch_writes,
    data_folder.examine_folder,
    data_folder.keep_from_starting,
    data_folder.let_it_start,
    data_folder.look_at_folder,
    data_folder.measure_room,
    data_folder.return_member,
    data_folder.start_standby,
    data_folder.stop_cleanly,
    data_folder.until_in_reach,
    dns.choose_and_lead,
    dns.confirm_names,
    dns.lead_names,
    epoch.claim_epoch,
    epoch.establish_epoch,
    epoch.read_record,
    epoch.write_record,
    estate.describe_estate,
    estate.lock_holder,
    estate.read_journey,
    estate.until_free,
    fencing.disconnect_standbys,
    fencing.follow_leader,
    fencing.prove_fence,
    fencing.reconnect_standbys,
    fencing.stall_primary,
    fencing.unstall_primary,
    fencing.until_caught_up,
    haproxy.hold_proxy,
    haproxy.point_proxy,
    haproxy.read_proxy,
    in_place.hold_folder,
    in_place.look_before_restore,
    in_place.restore_in_place,
    in_place.settle_in_place,
    in_place.until_it_stands,
    isolation.isolate_member,
    isolation.rejoin_network,
    keeper.keep_watch_of_set,
    manifest.count_rows,
    manifest.write_manifest,
    node.start_node,
    node.stop_node,
    notify.deliver,
    pgpool.lead_pgpool,
    pooler.hold_pooler,
    pooler.pause_poolers,
    pooler.point_pooler,
    pooler.read_pooler,
    pooler_shares.let_share_write,
    privileges.missing_privileges,
    probes.probe,
    probes.stays_closed,
    probes.verify_routes,
    probes.watch_member,
    promotion.apply_names,
    promotion.checkpoint,
    promotion.confirm_commit,
    promotion.prepare_candidate,
    promotion.prepare_primary,
    promotion.promote_candidate,
    rabbit_definitions.compare_with_mirror,
    rabbit_definitions.import_definitions,
    rabbit_doors.close_cluster,
    rabbit_doors.open_cluster,
    rabbit_drain.count_messages,
    rabbit_drain.drain,
    rabbit_drain.stop_drain,
    rabbit_drain.try_shovel,
    rabbit_look.observe_queue,
    rabbit_look.read_queue_record,
    rabbit_nodes.regrow,
    rabbit_nodes.start_broker,
    rabbit_nodes.stop_broker,
    rabbit_nodes.held_back,
    rabbit_nodes.until_queues_lead,
    rabbit_routes.verify_queue_routes,
    rabbit_watch.keep_standbys,
    rabbit_watch.watch_brokers,
    readiness.list_services,
    readiness.look_at_engine,
    readiness.look_from_region,
    receipts.keep_divergence,
    read_names.lead_read_names,
    reads.keep_watch_of_reads,
    reads.look_at_reads,
    reports.keep_report,
    restoring.keep_good,
    restoring.look_at_copy,
    restoring.look_for_room,
    restoring.look_at_tables,
    restoring.recover_copy,
    restoring.remove_copy,
    restoring.restore_backup,
    restoring.roll_back,
    survey.observe,
    survey.until_led,
    taking.confirm_backup,
    taking.expire_backups,
    taking.look_at_inventory,
    taking.stop_backup,
    taking.take_backup,
    taking.until_no_other,
]

RESTRICTIONS = SandboxRestrictions.default.with_passthrough_modules(
    # Each module that is not passed through is executed anew for each run: 85 ms of the first workflow task here.
    # These hold no state; the runbooks themselves stay inside.
    "schemas",
    "activities",
    "workflows.policy",
    "workflows.narrative",
    "workflows.reporting",
    "workflows.doors",
    "workflows.journal",
    "workflows.looking",
    "workflows.plan",
    "workflows.procedure",
    "workflows.reasons",
    "workflows.runbook",
    "workflows.telling",
    "workflows.by_name",
    "workflows.cache",
    "workflows.cache_return",
    "workflows.queue",
    "workflows.cache_warming",
    "workflows.database",
    "workflows.gradual",
    "workflows.database_fence",
    "workflows.database_gates",
    "workflows.database_protect",
    "workflows.database_return",
    "workflows.database_reads",
    "workflows.watch_reads",
    "workflows.watching",
    "workflows.database_routes",
    "workflows.database_verify",
    "workflows.restoring",
    "workflows.putting_back",
    "workflows.synchronous",
    "pydantic",
    "pydantic_core",
)


SETTLE_S = 2.0
"""What a worker that ends gives the runs that it has just completed, to be told."""


def identity(region: str) -> str:
    """What Temporal calls this process."""
    return f"{region}@{os.getpid()}@{socket.gethostname()}"


def make_workers(client: Client, region: str, interceptors: list[Interceptor] | None = None) -> list[Worker]:
    """The two workers of a region's process: shared queue (workflows, any-region activities) and the region's own."""
    shared: dict[str, Any] = {
        "client": client,
        "identity": identity(region),
        "interceptors": interceptors or [],
        "activities": ACTIVITIES,
        # Heartbeats carry cancels; SDK's default throttle of 30 s would hold one back [temporal.md, 6].
        "max_heartbeat_throttle_interval": timedelta(seconds=2),
        "default_heartbeat_throttle_interval": timedelta(seconds=1),
        "graceful_shutdown_timeout": timedelta(seconds=30),
    }
    return [
        RereadingWorker(
            task_queue=TASK_QUEUE,
            workflows=WORKFLOWS,
            restrictions=RESTRICTIONS,
            # A dead worker costs this much a workflow; the default is 10 s [temporal.md, 3].
            sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
            # A frozen worker's open polls go on taking tasks, each of which is lost until its time limit: few of them.
            activity_task_poller_behavior=PollerBehaviorSimpleMaximum(maximum=4),
            workflow_task_poller_behavior=PollerBehaviorSimpleMaximum(maximum=2),
            **shared,
        ),
        Worker(
            task_queue=region_queue(region),
            activity_task_poller_behavior=PollerBehaviorSimpleMaximum(maximum=3),
            **shared,
        ),
    ]


def make_runtime(where: str | None) -> tuple[Runtime, bool]:
    """The SDK's runtime, and whether it serves metrics: a port that can't be had costs those, never the worker."""
    if where is not None:
        try:
            runtime = metrics.make_runtime(where)
        except (RuntimeError, ValueError) as error:
            log.error("there are no metrics: %s can't be bound: %s", where, error)
        else:
            log.info("metrics at http://%s/metrics", where)
            return runtime, True
    return metrics.make_runtime(None), False


async def serve(
    region: str, topology: str, address: str | None, namespace: str | None, measured_at: str | None = None
) -> int:
    """Serve until SIGTERM or SIGINT. `measured_at`: HOST:PORT for metrics."""
    topology = str(Path(topology).resolve())
    found = estate.topology_at(topology)  # read here, so that the first run finds it read
    if region not in [each.name for each in found.regions]:
        log.error("%s is not a region of %s; one of: %s", region, topology, ", ".join(r.name for r in found.regions))
        return 2
    os.environ[estate.TOPOLOGY_VARIABLE] = topology
    runtime, measured = make_runtime(measured_at)
    client = await connect(address, namespace, runtime)
    interceptors: list[Interceptor] = [logs.NameService()]
    ends = RunEnds(client, identity(region))
    if measured:
        ends.listen(metrics.COUNTS, metrics.RunCounter(runtime.metric_meter).count)
        interceptors.append(metrics.MeasureRuns(ends))
    tracing = None
    if any(name.startswith("OTEL_EXPORTER_OTLP_") for name in os.environ):
        # What it brings costs a worker without traces half a second of its start.
        from workers import tracing as traces

        tracing = traces.start(ends, region)
        if tracing is not None:
            interceptors.append(tracing.interceptor)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        for worker in make_workers(client, region, interceptors):
            await stack.enter_async_context(worker)
        if measured:
            keeping = asyncio.create_task(gauges.keep(client, runtime.metric_meter, found))
            stack.callback(keeping.cancel)
        # What was loaded stays: the collector need not walk all of it in mid failover.
        gc.collect()
        gc.freeze()
        log.info("worker of %s serves %s and %s", region, TASK_QUEUE, region_queue(region))
        await stop.wait()
    await ends.settle(SETTLE_S)
    if tracing is not None:
        await tracing.stop()
    return 0


def main(argv: list[str] | None = None) -> int:
    """`lifeboat worker`: exit 0 after a signal, 2 for what it was given and can't be used."""
    parser = argparse.ArgumentParser(prog="lifeboat worker", description=__doc__)
    parser.add_argument("--region", required=True, help="the region whose queue is served")
    parser.add_argument("--topology", default=os.environ.get(estate.TOPOLOGY_VARIABLE, "topology.yaml"))
    parser.add_argument("--address", help="Temporal's host:port; the profile's where it is left out")
    parser.add_argument("--namespace")
    parser.add_argument("--metrics", default=os.environ.get(metrics.VARIABLE) or None, metavar="HOST:PORT")
    parser.add_argument("--log-format", default=os.environ.get(logs.VARIABLE) or "text", metavar="|".join(logs.FORMATS))
    given = parser.parse_args(argv)
    logs.configure(given.log_format)
    if given.log_format not in logs.FORMATS:
        log.error("there is no log format %s; one of: %s", given.log_format, ", ".join(logs.FORMATS))
        return 2
    try:
        where = None if given.metrics is None else metrics.checked(given.metrics)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(given.region, given.topology, given.address, given.namespace, where))
    except LifeboatError as error:
        log.error("%s", error)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
