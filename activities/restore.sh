# What a restore does on its host, as the servers' own user (activities/restore_host.py sends it, behind jobs.sh).
#
#   env REPOSITORY_PROGRAM=… sh -c 'eval "$1"' lifeboat-restore THIS DATA BIN KEEP CONFIG VERB …
#
# Lines that begin with `::` are the answer, `::name=value`; anything else is for people. POSIX sh, awk, PostgreSQL's own
# programs and pgBackRest, or what speaks its language (REPOSITORY_KIND plain: lifeboat-archive). KEEP is the copy's own
# folder: `owner` the run that it belongs to, `data/` the cluster, `postgresql.conf`, `hba` and `fetch` ours, `fetched` every
# file that recovery asked for and what came of it, `wal/` what was fetched to be read, `coming/` what is being fetched for a
# server that has a network of its own, `shared` why it has none, `good/` the files of a moment to come back to, `sock/` the
# only way in, `job/` the newest job.
#
# The environment: REPOSITORY_PROGRAM, REPOSITORY_CONFIG, STANZA and REPOSITORY (its number), REPOSITORY_NAME as errors have
# it; OWN_ROLE, the service's; ISOLATION, `namespace` or `configuration`, or empty for the first where it can be had.
set -u
umask 077
script=$1 data=$2 bin=$3 keep=$4 config=$5 verb=$6
shift 6
label=lifeboat-restore

memory=/dev/shm/$label-$(basename "$keep")
export LC_ALL=C TZ=UTC PATH="$bin:/usr/local/bin:/usr/bin:/bin"
unset PGDATA PGHOST PGPORT PGUSER PGPASSWORD PGSERVICE PGOPTIONS

# With a spool of the copy's own. By the environment: where nothing is fetched ahead (archive-async), pgBackRest takes no
# such option.
repository() {
  PGBACKREST_SPOOL_PATH="$keep/spool" ${run:-} "$REPOSITORY_PROGRAM" "--config=$REPOSITORY_CONFIG" "--stanza=$STANZA" "--repo=$REPOSITORY" --log-level-file=off --log-level-stderr=off "$@"
}

# To have WAL without a restored cluster: pgBackRest asks which one it is for, of a folder that has its pg_control.
wal() {
  got=$(repository "--pg1-path=$keep/probe" "--lock-path=$keep/lock" --log-level-console=warn archive-get "$@")
  code=$?
  [ -z "$got" ] || printf '%s\n' "$got"
  case $kind:$code:$got in plain:1:*"$ABSENT"*) return 1 ;; plain:1:*) return 255 ;; esac
  return $code
}
# What the repository holds, as pgBackRest's JSON: its backups; or, of one BACKUP, its databases.
info() {
  said=$(mktemp) && trap 'rm -f "$said" "$said.out"' EXIT || die "no temporary file can be made"
  repository --log-level-console=error --output=json ${1:+"--set=$1"} info > "$said.out" 2> "$said" ||
    die "$keeper can't read its repository: $(cat "$said" "$said.out" | tr '\n' ' ' | tail -c 400)"
  { printf '::info='; tr -d '\n' < "$said.out"; printf '\n'; } > "$said"
  answers "$said"
  say done 1
}

# The folder of a run's copy, and in it the cluster's pg_control alone: OWNER BACKUP, and the DATABASEs to leave out.
probe() {
  if [ -e "$keep/owner" ] && [ "$(cat "$keep/owner")" != "$1" ]; then die "$keep belongs to $(cat "$keep/owner")"; fi
  mkdir -p "$keep/sock" "$keep/spool" "$keep/lock" "$keep/wal" || die "$keep can't be made"
  printf '%s' "$1" > "$keep/owner" && flush "$keep/owner" "$keep" || die "$keep/owner not written"
  # A plain archive asks for no cluster: WAL says itself which one it is of.
  if [ "$kind" = plain ]; then say done 1; return; fi
  if [ -e "$keep/probe/global/pg_control" ]; then say done 1; return; fi
  backup=$2
  shift 2
  for database in "$@"; do set -- "$@" "--db-exclude=$database"; shift; done
  rm -rf "$keep/probe" "$keep/probe.one" && mkdir -p "$keep/probe.one/global" || die "$keep/probe can't be made"
  from=$memory
  catalogue "$from" "$backup" "$@" ||
    { grep -q "$memory" "$keep/probe.said" && from=$keep/probe.new && catalogue "$from" "$backup" "$@"; } ||
    die "$keeper can't read its repository: $(why "$keep/probe.said")"
  cp "$from/global/pg_control" "$keep/probe.one/global/" && flush "$keep/probe.one/global/pg_control" && rm -rf "$from" && mv "$keep/probe.one" "$keep/probe" || die "$keep/probe not kept"
  say done 1
}

# INTO BACKUP --db-exclude=…. Of a thousand files, each of them flushed, one is kept: in memory, while they fit there, it
# takes a third of the time.
catalogue() {
  into=$1 backup=$2
  shift 2
  rm -rf "$into" 2>/dev/null
  mkdir "$into" > "$keep/probe.said" 2>&1 || return 1
  (run=exec repository "--pg1-path=$into" "--lock-path=$keep/lock" --log-level-console=warn \
    --tablespace-map-all="$into/spaces" "--set=$backup" --type=none --delta --force "$@" restore) >> "$keep/probe.said" 2>&1 &
  while kill -0 $! 2>/dev/null; do
    if [ "$into" = "$memory" ] && [ "$(du -skx "$into" | cut -f 1)" -gt 200000 ]; then
      echo "too much for $memory" >> "$keep/probe.said"
      kill $!
    fi
    sleep 0.05
  done
  wait $! && return
  rm -rf "$into"
  return 1
}

# The WAL of one timeline in the archive, from a segment on, as stretches without a gap: ARCHIVE TIMELINE FROM BYTES.
segments() {
  said=$(mktemp) && trap 'rm -f "$said" "$said.all" "$said.out"' EXIT || die "no temporary file can be made"
  archived "archive/$STANZA/$1" "^$2[0-9A-F]{8}\$"
  for folder in $(cat "$said"); do
    [ "$(printf '%s\n%.16s\n' "$folder" "$3" | sort | tail -n 1)" = "$folder" ] || continue
    archived "archive/$STANZA/$1/$folder"
    cat "$said" >> "$said.all"
  done
  [ ! -e "$said.all" ] || sed -n 's/^\([0-9A-F]\{24\}\)\(-.*\)\{0,1\}$/\1/p' "$said.all" | sort -u | awk -v from="$3" -v size="$4" '
    function number(hex,   i, n) { n = 0; for (i = 1; i <= length(hex); i++) n = n * 16 + index("0123456789ABCDEF", substr(hex, i, 1)) - 1; return n }
    substr($0, 1) < substr(from, 1) { next }  # by text: 0000000100000000000000E0 is a number as well
    { at = number(substr($0, 9, 8)) * (4294967296 / size) + number(substr($0, 17, 8)) }
    first == "" { first = last = $0; was = at; next }
    at == was + 1 { last = $0; was = at; next }
    { print "::stretch=" first ";" last; first = last = $0; was = at }
    END { if (first != "") print "::stretch=" first ";" last }' > "$said.out"
  [ ! -e "$said.out" ] || answers "$said.out"
  say done 1
}

# Every timeline that the archive has a history of: ARCHIVE.
timelines() {
  said=$(mktemp) && trap 'rm -f "$said"' EXIT || die "no temporary file can be made"
  archived "archive/$STANZA/$1" '\.history$'
  sed -n 's/^\([0-9A-F]\{8\}\)\.history.*/::timeline=\1/p' "$said"
  say done 1
}

# Into the file $said, what there is at a path of the repository: PATH FILTER. A list that failed is no empty one.
archived() {
  repository --log-level-console=error ${2:+"--filter=$2"} repo-ls "$1" > "$said" 2>&1 || die "$keeper can't list the archive: $(tr '\n' ' ' < "$said" | tail -c 400)"
}

# Where the copy's folder may be a file system of its own.
room() {
  at=$keep
  while [ ! -d "$at" ]; do at=$(dirname "$at"); done
  say room_kb "$(df -Pk "$at" | awk 'NR == 2 { print $4 }')"
  say used_kb "$(du -skx "$keep" 2>/dev/null | cut -f 1)"
  bubble || say shared "$why"
  say done 1
}

# BACKUP ROUND. One that was broken off goes on with what it has (--delta compares checksums); one that has ended is let be,
# in the same round: recovery only goes forward, and what was replayed too far is restored anew.
restore() {
  round=${2:-1}
  set -- "$1"
  if [ "$(cat "$keep/restored" 2>/dev/null)" = "$1 $round" ]; then say done 1; return; fi
  halt immediate
  # What this backup was restored to before is mended by its differences.
  [ ! -s "$keep/restored" ] || sed 's/ .*//' "$keep/restored" > "$keep/begun"
  rm -rf "$keep/restored" "$keep/fetched" "$keep/wanted" "$keep/good"
  mkdir -p "$data" || die "$data can't be made"
  set -- "$1" --delta
  # Of another backup, or of one that was not begun by this: nothing is to be kept.
  [ "$(cat "$keep/begun" 2>/dev/null)" = "$1" ] || find "$data" -mindepth 1 -delete || die "$data can't be emptied"
  [ -n "$(ls -A "$data")" ] || set -- "$1"
  printf '%s' "$1" > "$keep/begun" || die "$keep/begun not written"
  set -- "--set=$1" --type=none ${2:+"$2"}
  # What restores refuses a folder that has one, and this server has ended, whatever it left.
  rm -f "$data/postmaster.pid"
  # With its own locks as well: two restores at once share nothing. Tablespaces lie below the copy's folder, never at
  # the source's own places.
  repository "--pg1-path=$data" "--lock-path=$keep/lock" --log-level-console=detail \
    --tablespace-map-all="$keep/spaces" "$@" restore
  code=$?
  [ $code = 0 ] || { said=$(why "$keep/job/log"); die "$keeper's restore exited $code${said:+: $said}"; }
  # Nothing of the source's own settings: they name archives, standbys and libraries.
  rm -f "$data/standby.signal" "$data/recovery.signal" "$data/postmaster.pid"
  : > "$data/postgresql.auto.conf"
  rm -f "$keep/begun"
  printf '%s %s' "${1#--set=}" "$round" > "$keep/restored.new" && mv "$keep/restored.new" "$keep/restored" && flush "$keep/restored" "$keep"
  say done 1
}

# Limits that a server in recovery must have at least (hot_standby), and what tells the copy from another cluster.
control() {
  "$bin/pg_controldata" -D "$data" 2>/dev/null | sed -n \
    -e 's/^Database cluster state: */::state=/p' -e 's/^Database system identifier: */::system=/p' \
    -e 's/^Minimum recovery ending location: */::recovered_to=/p' -e "s/^Min recovery ending loc's timeline: */::recovered_timeline=/p" \
    -e 's/^Bytes per WAL segment: */::segment_bytes=/p' -e 's/^Data page checksum version: */::checksums=/p' \
    -e 's/^Latest checkpoint location: */::checkpoint=/p' -e "s/^Latest checkpoint's TimeLineID: */::checkpoint_timeline=/p"
}

limits() {
  "$bin/pg_controldata" -D "$data" | sed -n \
    -e 's/^max_connections setting: */max_connections = /p' -e 's/^max_worker_processes setting: */max_worker_processes = /p' \
    -e 's/^max_wal_senders setting: */max_wal_senders = /p' -e 's/^max_prepared_xacts setting: */max_prepared_transactions = /p' \
    -e 's/^max_locks_per_xact setting: */max_locks_per_transaction = /p'
}

# WANTED PRELOAD SETTINGS: recovery's target, one setting a line; what it is called, so that a second order finds it met.
recover() {
  [ -s "$keep/restored" ] || die "nothing is restored here"
  if [ "$(cat "$keep/wanted" 2>/dev/null)" = "$1" ] && running; then say done 1; return; fi
  halt fast
  {
    # No port, no network; whoever may pass the folder is its user.
    printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$keep/sock'" "port = 5432" "hba_file = '$keep/hba'" \
      "ident_file = '$keep/ident'" "archive_mode = off" "primary_conninfo = ''" "hot_standby = on" \
      "max_logical_replication_workers = 0" "shared_preload_libraries = '$2'" "shared_buffers = 128MB" "fsync = off" \
      "autovacuum = off" "logging_collector = off" "log_line_prefix = '%m [%p] '" "timezone = 'UTC'" "log_timezone = 'UTC'" \
      "max_standby_archive_delay = -1" "jit = off" "restore_command = 'sh \"$keep/fetch\" \"%f\" \"%p\"'" "recovery_target_action = 'pause'"
    limits
    printf '%s\n' "$3"
  } > "$config.new" && mv "$config.new" "$config" || die "$config not written"
  printf 'local all all trust\n' > "$keep/hba" && : > "$keep/ident" || die "$keep/hba not written"
  printf '%s' "$1" > "$keep/wanted"
  : > "$data/recovery.signal" || die "recovery.signal not written"
  : > "$keep/server.log"
  start
  say done 1
}

# A transaction that was under way at the target keeps its locks for as long as the copy stands there.
LOCK_S=5s

# As the only superuser that every cluster has, whatever it is called: it may read all, and the server listens to nobody else.
ask() { PGOPTIONS="-c lock_timeout=$LOCK_S" "$bin/psql" -X -A -t -v ON_ERROR_STOP=1 -h "$keep/sock" -p "$(port)" -U "$(superuser)" -d "${1:-postgres}" -c "$2"; }
port() { sed -n 's/^port = //p' "$config"; }
superuser() {
  if [ ! -s "$keep/superuser" ]; then
    for name in postgres "$OWN_ROLE"; do
      found=$("$bin/psql" -X -A -t -h "$keep/sock" -p "$(port)" -U "$name" -d template1 -c 'SELECT rolname FROM pg_roles WHERE oid = 10' 2>/dev/null) && break
    done
    [ -z "$found" ] || printf '%s' "$found" > "$keep/superuser"
  fi
  cat "$keep/superuser" 2>/dev/null
}

# How the copy stands. HEARTBEAT-DATABASE.
look() {
  say owner "$(cat "$keep/owner" 2>/dev/null)"
  say restored "$(cat "$keep/restored" 2>/dev/null)"
  say begun "$(cat "$keep/begun" 2>/dev/null)"
  say wanted "$(cat "$keep/wanted" 2>/dev/null)"
  control
  if running; then say running 1; reach; else say running 0; fi
  [ ! -e "$keep/shared" ] || say shared "$(tr '\n' ' ' < "$keep/shared" | tail -c 200)"
  said=$(ask postgres "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END,
    pg_last_wal_replay_lsn(), extract(epoch FROM pg_last_xact_replay_timestamp())" 2>/dev/null) && say session "$said"
  if [ -n "${1:-}" ]; then
    said=$(ask "$1" "SELECT extract(epoch FROM max(at)) FROM lifeboat.heartbeat" 2>/dev/null) && say heartbeat "${said:-none}"
  fi
  fetched
  grep -E ' (FATAL|PANIC): ' "$keep/server.log" 2>/dev/null | grep -v 'the database system is starting up' | tail -n 3 | sed 's/^/::fatal=/'
  sed -n 's/.*LOG:  last completed transaction was at log time \(.*\)/::last_commit=\1/p' "$keep/server.log" 2>/dev/null | tail -n 1
  tail -n 1 "$keep/server.log" 2>/dev/null | sed 's/^/::line=/'
  say done 1
}

# As `look`, once the copy stands still (`still`: where it did so a moment before) or has ended, or two seconds have passed.
# Its log is read meanwhile, which takes nothing from recovery: whether it does stand still, the server itself tells.
settle() {
  looks=0
  while running && [ $looks -lt 40 ]; do
    if grep -q 'pausing at the end of recovery' "$keep/server.log"; then
      said=$(ask postgres "SELECT pg_last_wal_replay_lsn() WHERE pg_get_wal_replay_pause_state() = 'paused'" 2>/dev/null)
      say still "$said"
      break
    fi
    looks=$((looks + 1))
    sleep 0.05
  done
  look "$@"
}

# DATABASE QUERY: its rows, columns by |.
query() {
  said=$(mktemp) && trap 'rm -f "$said" "$said.out"' EXIT || die "no temporary file can be made"
  if ask "$1" "$2" > "$said" 2>&1; then sed 's/^/::row=/' "$said" > "$said.out"; answers "$said.out"; say done 1
  else die "$(tr '\n' ' ' < "$said" | tail -c 400)"; fi
}

stop() {
  halt "${1:-fast}"
  say done 1
}

# Fast or immediate: the server, and who fetches for it.
halt() {
  if running; then "$bin/pg_ctl" -D "$data" -m "$1" -w -t 60 stop >/dev/null 2>&1 || "$bin/pg_ctl" -D "$data" -m immediate -w stop >/dev/null 2>&1; fi
  if running; then die "the copy's server does not stop"; fi
  end_fetcher
}

# MOMENT: the copy's files as they are, stopped at a moment to come back to, which share their blocks with it. `none`, where
# the file system can't do so: what was kept before is good as well.
snapshot() {
  [ -s "$keep/restored" ] || die "nothing is restored here"
  if [ "$(cat "$keep/good/of" 2>/dev/null)" = "$(cat "$keep/restored") $1" ]; then say done 1; return; fi
  said=$(shared_copy "$data/PG_VERSION" "$keep/good.try" 2>&1)
  code=$?
  rm -f "$keep/good.try"
  if [ $code != 0 ]; then say none "$(printf '%s\n' "$said" | tail -n 1)"; say done 1; return; fi
  halt fast
  rm -rf "$keep/good.new" && mkdir "$keep/good.new" || die "$keep/good.new can't be made"
  if said=$(files_to "$keep" "$keep/good.new" 2>&1) && printf '%s %s' "$(cat "$keep/restored")" "$1" > "$keep/good.new/of"; then
    rm -rf "$keep/good" && mv "$keep/good.new" "$keep/good" || die "$keep/good not kept"
  else
    rm -rf "$keep/good.new"
    say none "$(printf '%s\n' "$said" | tail -n 1)"
  fi
  say done 1
}

# ROUND: the copy as it was at the newest snapshot, in a round of its own. `none` where there is none of this backup.
roll_back() {
  of=$(cat "$keep/good/of" 2>/dev/null)
  if [ "$(cat "$keep/restored" 2>/dev/null)" = "${of%% *} $1" ]; then say done 1; return; fi
  if [ -z "$of" ]; then say none "no files are kept"; say done 1; return; fi
  halt immediate
  # One that is broken off has nothing restored, and begins anew.
  rm -rf "$keep/restored" "$keep/wanted" "$keep/fetched" "$keep/refused" "$data" "$keep/spaces"
  files_to "$keep/good" "$keep" || die "the files of ${of#* * } can't be put back"
  printf '%s %s' "${of%% *}" "$1" > "$keep/restored.new" && mv "$keep/restored.new" "$keep/restored" && flush "$keep/restored" "$keep"
  say done 1
}

shared_copy() { cp -a --reflink=always "$@"; }

# FROM TO: a cluster, its tablespaces, and what recovery has fetched for it.
files_to() {
  for each in data spaces; do
    [ ! -e "$1/$each" ] || shared_copy "$1/$each" "$2/" || return 1
  done
  [ ! -e "$1/fetched" ] || cp "$1/fetched" "$2/"
}

# Tables of the copy, into a service that has none of that name, in one transaction with the row that says so:
# TARGET DATABASE RUN PASSFILE ASIDE TABLE …. ASIDE: a schema that those which are there are moved to, with all that is theirs.
copy_back() {
  target=$1 database=$2 run=$3 pass=$4 aside=$5
  shift 5
  list=
  for table in "$@"; do
    list="$list${list:+,}$table"
    set -- "$@" "--table=\"${table%%.*}\".\"${table#*.}\""
    shift
  done
  # What fails to be read must not be committed as far as it came. A service that is read-only for its clients takes it.
  {
    printf 'BEGIN;\n'
    if [ -n "$aside" ]; then
      printf 'CREATE SCHEMA "%s";\n' "$aside"
      printf '%s\n' "$list" | tr ',' '\n' | sed "s/\(.*\)\.\(.*\)/ALTER TABLE IF EXISTS \"\1\".\"\2\" SET SCHEMA \"$aside\";/"
    fi
    "$bin/pg_dump" --lock-wait-timeout=$LOCK_S -h "$keep/sock" -p "$(port)" -U "$(superuser)" -d "$database" "$@" || printf '\n\\.\n;SELECT 1/0;\n'
    printf "INSERT INTO lifeboat.restored (run, tables) VALUES ('%s', '{%s}');\nCOMMIT;\n" "$run" "$list"
  } | PGOPTIONS='-c default_transaction_read_only=off' PGPASSFILE=$pass "$bin/psql" -X -q -v ON_ERROR_STOP=1 -d "$target" > "$keep/copied" 2>&1
  code=$?
  [ $code = 0 ] || die "psql exited $code: $(tr '\n' ' ' < "$keep/copied" | tail -c 400)"
  say done 1
}

# For reading, by whoever its network lets in: HOST PORT NETWORK …. Passwords are those that the service had at the target.
hand_over() {
  host=$1 port=$2
  shift 2
  { printf 'local all all trust\n'; for network in "$@"; do printf 'host all all %s scram-sha-256\n' "$network"; done; } > "$keep/hba"
  sed -i -e "s/^listen_addresses = .*/listen_addresses = '$host'/" -e "s/^port = .*/port = $port/" "$config" || die "$config not written"
  printf '%s' "$host:$port" > "$keep/handed"
  halt fast
  start
  say done 1
}

# Every page's checksum, which needs the server stopped; it goes on where it was afterwards.
checksums() {
  halt fast
  "$bin/pg_checksums" --check -D "$data" > "$keep/checked" 2>&1
  code=$?
  [ -n "$(cat "$keep/wanted" 2>/dev/null)" ] && start
  sed -n 's/^Bad checksums: */::bad=/p; s/^Blocks scanned: */::blocks=/p' "$keep/checked"
  grep 'checksum verification failed' "$keep/checked" | head -n 5 | sed 's/^/::finding=/'
  grep -q 'data checksums are not enabled' "$keep/checked" && say disabled 1
  say status $code
  tail -n 2 "$keep/checked"
  say done 1
}

# Heaps and indexes of every database that has amcheck: pg_amcheck's findings.
amcheck() {
  PGOPTIONS="-c lock_timeout=$LOCK_S" "$bin/pg_amcheck" -h "$keep/sock" -p "$(port)" -U "$(superuser)" --heapallindexed --all --no-dependent-toast > "$keep/checked" 2>&1
  code=$?
  # What is wrong with a relation stands indented below it.
  grep -v 'skipping database' "$keep/checked" | awk '/^[[:space:]]/ { sub(/^[[:space:]]+/, " "); held = held $0; next }
    { if (held != "") print held; held = $0 } END { if (held != "") print held }' | head -n 20 | cut -c 1-300 | sed 's/^/::finding=/'
  say status $code
  say done 1
}

# Every copy here, with the run that it belongs to.
copies() {
  for folder in "$keep"/*/; do
    [ -e "$folder/owner" ] && printf '::copy=%s;%s;%s\n' "$(basename "$folder")" "$(cat "$folder/handed" 2>/dev/null)" "$(cat "$folder/owner")"
  done
  say done 1
}

# Whatever there is of the copy: its job, its server, its folder.
remove() {
  if [ -e "$keep/job/pid" ] && alive; then kill -s TERM -- "-$(cat "$keep/job/pid")" 2>/dev/null; sleep 0.2; fi
  if alive; then kill -s KILL -- "-$(cat "$keep/job/pid")" 2>/dev/null; sleep 0.1; fi
  halt immediate
  case $keep in */*/*) rm -rf "$keep" || die "$keep can't be removed" ;; esac
  rm -rf "$memory"
  say done 1
}

case $verb in
  amcheck | begin | checksums | copies | copy_back | hand_over | history | info | look | probe | query | recover | remove | restore | roll_back | room | scan | segments | serve | settle | snapshot | status | stop | timelines | work)
    "$verb" "$@"
    ;;
  *) die "there is no verb $verb" ;;
esac
