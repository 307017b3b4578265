"""What a restore is measured against: pgBackRest and a server's recovery by hand, and the data that both restore."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime

from activities.restore_host import backups_of
from bench.common import BenchFailed
from bench.stand import Stand
from lab import backup
from lab import lab as life
from lab.layout import HOME, RESTORES
from lab.secrets import SUPERUSER
from schemas.restores import Backup

FILL_S = 600.0
BACKUP_S = 900.0
HAND_S = 900.0
ROW = 8000
"""Bytes of a row: one a page."""
AFTER_S = 1.5
"""Between the target and the next commits, so that each side of it has a heartbeat of its own."""

_FILLER = "gen_random_bytes(1000)" + " || gen_random_bytes(1000)" * (ROW // 1000 - 1)
_COMMITS = f"""
DO $$ BEGIN
  FOR n IN 1..{{rows}} LOOP INSERT INTO bench_bulk VALUES ({_FILLER}); COMMIT; END LOOP;
END $$
"""

_RESTORE = """
set -e
keep=$PWD/hand label=$1 program=$2 config=$3 stanza=$4
mkdir "$keep" "$keep/data" "$keep/spool" "$keep/lock" "$keep/sock" && chmod 700 "$keep/data"
began=$(date +%s.%N)
"$program" --config="$config" --stanza="$stanza" --repo=1 --pg1-path="$keep/data" --spool-path="$keep/spool" \\
  --lock-path="$keep/lock" --log-level-file=off --log-level-console=warn --set="$label" --type=none restore
ended=$(date +%s.%N)
echo "took $began $ended"
"""

_RECOVER = """
set -e
keep=$PWD/hand time=$1 program=$2 config=$3 stanza=$4 bin=$5
fetch="$program --config=$config --stanza=$stanza --repo=1 --pg1-path=$keep/data --spool-path=$keep/spool"
fetch="$fetch --lock-path=$keep/lock --log-level-file=off --log-level-console=error"
began=$(date +%s.%N)
: > "$keep/data/postgresql.auto.conf"
: > "$keep/data/recovery.signal"
{
  printf '%s\\n' \\
    "listen_addresses = ''" "unix_socket_directories = '$keep/sock'" "port = 5432" "hba_file = '$keep/hba'" \\
    "ident_file = '$keep/ident'" "archive_mode = off" "primary_conninfo = ''" "hot_standby = on" \\
    "max_logical_replication_workers = 0" "shared_buffers = 128MB" "fsync = off" "autovacuum = off" \\
    "logging_collector = off" "timezone = 'UTC'" "log_timezone = 'UTC'" "max_standby_archive_delay = -1" \\
    "jit = off" "restore_command = '$fetch archive-get \\"%f\\" \\"%p\\"'" "recovery_target_action = 'pause'" \\
    "recovery_target_timeline = 'latest'" "recovery_target_time = '$time'" \\
    "max_connections = 200" "max_wal_senders = 10"
} > "$keep/postgresql.conf"
printf 'local all all trust\\n' > "$keep/hba"
: > "$keep/ident"
setsid "$bin/postgres" -D "$keep/data" -c "config_file=$keep/postgresql.conf" > "$keep/log" 2>&1 < /dev/null &
asked="SELECT pg_get_wal_replay_pause_state() WHERE pg_is_in_recovery()"
until [ "$("$bin/psql" -X -A -t -h "$keep/sock" -U "$6" -d postgres -c "$asked" 2>/dev/null)" = paused ]; do
  if ! kill -0 $! 2>/dev/null; then tail -n 3 "$keep/log"; exit 1; fi
  sleep 0.05
done
ended=$(date +%s.%N)
echo "took $began $ended"
"""

_REMOVE = """
keep=$PWD/hand bin=$1
if [ -e "$keep/data/postmaster.pid" ]; then "$bin/pg_ctl" -D "$keep/data" -m immediate -w stop > /dev/null; fi
rm -rf "$keep"
"""


@dataclass(frozen=True)
class Prepared:
    """A backup, WAL after it, and a moment in that WAL which both ways recover to."""

    backup: Backup
    target: datetime
    wal_bytes: int


async def prepare(stand: Stand, megabytes: int, wal_megabytes: int) -> Prepared:
    """Rows of random bytes, a full backup of them, commits one by one, the target, and a few commits after it."""
    session = await stand.session(HOME)
    try:
        await session.ask("CREATE EXTENSION IF NOT EXISTS pgcrypto", limit=FILL_S)
        await session.ask("CREATE EXTENSION IF NOT EXISTS amcheck", limit=FILL_S)
        await session.ask("CREATE TABLE bench_bulk (filler bytea)", limit=FILL_S)
        await session.ask("ALTER TABLE bench_bulk ALTER filler SET STORAGE PLAIN", limit=FILL_S)
        # Vacuumed before the backup: the WAL after it is to be of the commits.
        await session.ask("ALTER TABLE bench_bulk SET (autovacuum_enabled = off)", limit=FILL_S)
        rows = f"INSERT INTO bench_bulk SELECT {_FILLER} FROM generate_series(1, {megabytes * 1_000_000 // ROW})"
        await session.ask(rows, limit=FILL_S)
        await session.ask("VACUUM (FREEZE) bench_bulk", limit=FILL_S)
        await backup.run_on(stand.lab, HOME, "backup", "--type=full", limit=BACKUP_S)
        # It writes the heartbeat that the proof compares; while the disk was being filled it might have seen a death.
        await life.start_watch(stand.lab)
        begun = await session.ask("SELECT pg_current_wal_lsn()", limit=FILL_S)
        await session.ask(_COMMITS.format(rows=wal_megabytes * 1_000_000 // ROW), limit=FILL_S)
        asked = f"SELECT pg_current_wal_lsn() - '{begun.rows[0][0]}'::pg_lsn, clock_timestamp()"
        wal, at = (await session.ask(asked, limit=FILL_S)).rows[0]
        await asyncio.sleep(AFTER_S)
        await session.ask(_COMMITS.format(rows=10), limit=FILL_S)
        await session.ask("SELECT pg_switch_wal()", limit=FILL_S)
    finally:
        session.close()
    told = await backup.run_on(stand.lab, HOME, "--output=json", "info")
    backups, why = backups_of(told, backup.STANZA)
    if not backups or at is None:
        raise BenchFailed(f"there is no backup: {why}")
    return Prepared(backups[-1], datetime.fromisoformat(at), int(wal or 0))


async def restore(stand: Stand, prepared: Prepared) -> float:
    """Seconds of `pgbackrest restore` into an empty folder, on the host of restores."""
    return await _timed(stand, _RESTORE, prepared.backup.label)


async def recover(stand: Stand, prepared: Prepared) -> float:
    """Seconds from what was restored until a server on it stands still at the target."""
    return await _timed(stand, _RECOVER, prepared.target.isoformat(sep=" ", timespec="microseconds"))


async def remove(stand: Stand) -> None:
    await stand.node_command(RESTORES, "sh", "-c", _REMOVE, "hand", str(stand.lab.pg_bin), limit=HAND_S)


async def _timed(stand: Stand, script: str, first: str) -> float:
    """As the commands' own host has it: what it takes to get there is no part of a floor."""
    program, config, *_ = backup.command(stand.lab, RESTORES)
    words = (first, program, config.removeprefix("--config="), backup.STANZA, str(stand.lab.pg_bin), SUPERUSER)
    told = await stand.node_command(RESTORES, "sh", "-c", script, "hand", *words, limit=HAND_S)
    found = re.search(r"^took ([0-9.]+) ([0-9.]+)$", told, re.MULTILINE)
    if found is None:
        raise BenchFailed(f"by hand: {told[-300:]}")
    return float(found[2]) - float(found[1])
