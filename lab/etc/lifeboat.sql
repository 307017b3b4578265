-- What Lifeboat needs of PostgreSQL 15 or newer, and no more. To be carried out (again does no harm) by a superuser, on the primary, in the
-- database that the topology names (`access.database`), after the roles lifeboat and lifeboat_probe were made with LOGIN.

-- Its own schema: a write through every route (`verify`), and one row a second (`detection.heartbeat`).
CREATE SCHEMA IF NOT EXISTS lifeboat;
CREATE TABLE IF NOT EXISTS lifeboat.probe (
    route text, region text, run text, token text, at timestamptz DEFAULT clock_timestamp(),
    PRIMARY KEY (route, region)
);
CREATE TABLE IF NOT EXISTS lifeboat.heartbeat (id int PRIMARY KEY CHECK (id = 1), at timestamptz);
GRANT USAGE ON SCHEMA lifeboat TO lifeboat, lifeboat_probe;
GRANT SELECT, INSERT, UPDATE ON lifeboat.probe TO lifeboat, lifeboat_probe;
GRANT SELECT, INSERT, UPDATE ON lifeboat.heartbeat TO lifeboat;

-- Reads positions, receivers, senders and settings, and its own stamp in the configuration files.
GRANT pg_monitor TO lifeboat;
GRANT SELECT ON pg_file_settings TO lifeboat;
GRANT EXECUTE ON FUNCTION pg_show_all_file_settings() TO lifeboat;

-- Disconnects and leads standbys, stalls an old primary, sets who must acknowledge, and stamps nodes with the epoch.
GRANT SET, ALTER SYSTEM ON PARAMETER primary_conninfo, synchronous_standby_names, lifeboat.epoch TO lifeboat;
GRANT EXECUTE ON FUNCTION pg_reload_conf() TO lifeboat;

-- Makes a damaged service read-only for its clients, while the damage is looked for.
GRANT SET, ALTER SYSTEM ON PARAMETER default_transaction_read_only TO lifeboat;

-- Promotes, and makes rewinds of the old primary possible at once.
GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer) TO lifeboat;
GRANT pg_checkpoint TO lifeboat;

-- Begins a fresh WAL file before a planned move, so that clients wait 0.1 s less; without it they wait a little longer.
GRANT EXECUTE ON FUNCTION pg_switch_wal() TO lifeboat;

-- Only where standbys follow by slots (primary_slot_name): makes them on a new primary, and drops those left behind. The role may then
-- also read the whole cluster, so that it is not granted by default.
-- ALTER ROLE lifeboat REPLICATION;

-- Ends clients' sessions on an old primary that still answers; those of superusers stay, and are told in the report.
GRANT pg_signal_backend TO lifeboat;

-- Lets a restored backup be checked, index by index (one of PostgreSQL's contrib modules): a copy that is still in recovery can't get it
-- any more, and has only what its backup brought along.
CREATE EXTENSION IF NOT EXISTS amcheck;

-- Says which tables a run has copied back from a restored copy, in the same transaction. The role that may write them (backup.copy_back)
-- needs: GRANT USAGE ON SCHEMA lifeboat, GRANT INSERT ON lifeboat.restored, and membership in the tables' owners.
CREATE TABLE IF NOT EXISTS lifeboat.restored (run text PRIMARY KEY, tables text[] NOT NULL, at timestamptz DEFAULT clock_timestamp());
GRANT SELECT ON lifeboat.restored TO lifeboat;

-- Says about how many rows each table has, so that a backup brings it along, and a copy with far fewer is called so.
CREATE TABLE IF NOT EXISTS lifeboat.manifest (run text PRIMARY KEY, rows jsonb NOT NULL, at timestamptz DEFAULT clock_timestamp());
GRANT SELECT, INSERT, DELETE ON lifeboat.manifest TO lifeboat;

-- Rewinds a member that comes back: the role with which its pg_rewind reads the leader's files (pg_rewind's manual).
GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), pg_read_binary_file(text),
    pg_read_binary_file(text, bigint, bigint, boolean) TO replicator;
