# What a rejoin does to a member's data folder, on its node, as the server's own user (activities/data_folder.py sends it).
#
#   sh -c 'eval "$1"' lifeboat-data THIS DATA BIN KEEP CONFIG VERB …
#
# Lines that begin with `::` are the answer, `::name=value`; anything else is for people. POSIX sh, awk, and PostgreSQL's
# own programs. Long work is a job (jobs.sh, which comes before this text): it goes on when whoever began it is gone, and is
# found again by its id.
#
# In KEEP: `begun` while a rewind, a copy or a restore has begun and not ended (the folder is then good for neither), `config/`
# the node's own files of before, `divergent/ID/` the WAL that only this node has, `held` why nothing of the folder may be
# changed, `job/` the newest job; `fetch`, `spool/` and `lock/` of a recovery from pgBackRest's archive.
set -u
umask 077
script=$1 data=$2 bin=$3 keep=$4 config=$5 verb=$6
shift 6
label=lifeboat-data
export LC_ALL=C TZ=UTC PATH="$bin:/usr/local/bin:/usr/bin:/bin"
unset PGDATA PGHOST PGPORT PGUSER PGPASSWORD PGSERVICE PGOPTIONS

must_be_stopped() { if running; then say running 1; die "the server runs"; fi; }

# What pg_controldata tells, as answers.
control() {
  "$bin/pg_controldata" -D "$data" 2>/dev/null | sed -n \
    -e 's/^Database cluster state: */::state=/p' -e 's/^Database system identifier: */::system=/p' \
    -e 's/^Latest checkpoint location: */::checkpoint=/p' -e "s/^Latest checkpoint's TimeLineID: */::checkpoint_timeline=/p" \
    -e 's/^Minimum recovery ending location: */::recovered_to=/p' -e "s/^Min recovery ending loc's timeline: */::recovered_timeline=/p" \
    -e 's/^Bytes per WAL segment: */::segment_bytes=/p' \
    -e 's/^wal_log_hints setting: */::hints=/p' -e 's/^Data page checksum version: */::checksums=/p'
}

# Whether it runs, and where its WAL ends.
state() {
  control
  if running; then say running 1; else say running 0; fi
}

# The same once it has stopped, or after SECONDS: begun beside a stop, since clients wait for what this takes to start.
shut() {
  looks=0
  while running && [ $looks -lt $(($1 * 100)) ]; do
    sleep 0.01
    looks=$((looks + 1))
  done
  state
}

programs() { "$bin/postgres" --version 2>/dev/null | sed 's/^[^0-9]*\([0-9]*\).*/\1/'; }

# What tells how the folder stands.
look() {
  state
  say major "$(cat "$data/PG_VERSION" 2>/dev/null)"
  say programs "$(programs)"
  newest=$(ls "$data/pg_wal" 2>/dev/null | grep -E '^[0-9A-F]{24}$' | sort | tail -n 1)
  say newest_wal "$newest"
  sed -n '/^[0-9]/s/^/::ancestor=/p' "$data/pg_wal/${newest%????????????????}.history" 2>/dev/null
  if [ -e "$data/standby.signal" ]; then say standby 1; else say standby 0; fi
  say stamp "$(sed -n "s/^lifeboat\.epoch *= *'\([0-9]*\)'.*/\1/p" "$data/postgresql.auto.conf" 2>/dev/null | tail -n 1)"
  say begun "$(cat "$keep/begun" 2>/dev/null)"
  say held "$(cat "$keep/held" 2>/dev/null)"
  free
}

# WHY: what is in the folder is nowhere else, and nothing may change it until a person says so.
hold() { mkdir -p "$keep" && printf '%s' "$1" > "$keep/held.new" && mv "$keep/held.new" "$keep/held" && flush "$keep/held" "$keep" || die "$keep/held not written"; say done 1; }
release() { rm -f "$keep/held" && { [ ! -d "$keep" ] || flush "$keep"; } || die "$keep/held can't be removed"; say done 1; }
must_be_free() { [ ! -s "$keep/held" ] || die "the folder is held: $(cat "$keep/held")"; }

# Where the folder may be a file system of its own.
free() {
  at=$data
  [ -d "$at" ] || at=$(dirname "$data")
  say room_kb "$(df -Pk "$at" | awk 'NR == 2 { print $4 }')"
}

# What a copy could take: free, and freed by it.
room() {
  free
  say used_kb "$(du -skx "$at" 2>/dev/null | cut -f 1)"
  say done 1
}

# The history of a timeline, from a server that has it: CONNINFO TIMELINE.
history() {
  "$bin/psql" -X -A -t -d "$1 replication=true connect_timeout=3" -c "TIMELINE_HISTORY $2" 2>&1 |
    sed -n -e 's/^[0-9A-F]*\.history|//' -e '/^[[:space:]]*[0-9][0-9]*[[:space:]]/s/^/::branch=/p' -e '/rror:/s/^/::error=/p'
}

own_files() {
  ls -A "$1" 2>/dev/null | while read -r name; do
    case $name in
      PG_VERSION | postmaster.* | backup_label* | backup_manifest* | tablespace_map* | *.signal | current_logfiles | *.old | core*) ;;
      *) if [ -f "$1/$name" ] || [ "$name" = conf.d ]; then printf '%s\n' "$name"; fi ;;
    esac
  done
}

# The node's own configuration and keys, which a rewind and a copy replace by the source's. Once begun, what is there
# may be the source's already.
save_config() {
  [ ! -s "$keep/begun" ] || return 0
  [ -f "$data/PG_VERSION" ] || return 0
  rm -rf "$keep/config.new" && mkdir -p "$keep/config.new" || die "$keep can't be written"
  own_files "$data" | while read -r name; do cp -Rp "$data/$name" "$keep/config.new/" || exit 3; done || die "configuration not kept"
  flush_all "$keep/config.new"
  rm -rf "$keep/config" && mv "$keep/config.new" "$keep/config" && flush "$keep"
}

# Own files back, and as a standby: SETTINGS is what postgresql.auto.conf says beside the node's own.
as_standby() {
  if [ -n "$(ls -A "$keep/config" 2>/dev/null)" ]; then cp -Rp "$keep/config/." "$data/" || die "configuration not restored"; fi
  : > "$data/standby.signal" || die "standby.signal not written"
  rm -f "$data/recovery.signal"
  {
    grep -Ev '^(#|(primary_conninfo|synchronous_standby_names|lifeboat\.epoch|default_transaction_read_only|recovery_target[a-z_]*) *=)' \
      "$keep/config/postgresql.auto.conf" 2>/dev/null
    printf '%s\n' "$1"
  } > "$data/postgresql.auto.conf.lifeboat" || die "postgresql.auto.conf not written"
  mv "$data/postgresql.auto.conf.lifeboat" "$data/postgresql.auto.conf"
  [ ! -d "$data/conf.d" ] || flush_all "$data/conf.d"
  flush_all "$data" -maxdepth 1 -type f
  flush "$data"
}

# A rewind or a copy has begun, which leaves the folder good for nothing else until it has ended.
begin_with() { echo "$1" > "$keep/begun" && flush "$keep/begun" "$keep" || die "$keep/begun not written"; }
end_it() { rm -f "$keep/begun" && flush "$keep"; }

# No divergence: the folder is only turned into a standby's.
follow() {
  must_be_stopped
  must_be_free
  [ ! -s "$keep/begun" ] || die "a rewind or a copy has begun and not ended"
  save_config
  as_standby "$1"
  say done 1
}

# SOURCE SETTINGS
rewind() {
  must_be_stopped
  must_be_free
  [ ! -s "$keep/begun" ] || die "a rewind or a copy has begun and not ended"
  save_config
  begin_with rewind
  # Its own recovery of a folder that was not shut down is not that of a standby.
  rm -f "$data/standby.signal"
  [ -z "$config" ] || set -- "$@" "--config-file=$config"
  if [ -n "$("$bin/postgres" -D "$data" ${config:+-c "config_file=$config"} -C restore_command 2>/dev/null)" ]; then set -- "$@" --restore-target-wal; fi
  source=$1 settings=$2
  shift 2
  { "$bin/pg_rewind" -D "$data" --write-recovery-conf --progress "--source-server=$source" "$@"; echo $? > "$keep/rewound"; } 2>&1 |
    tee "$keep/said"
  code=$(cat "$keep/rewound")
  [ "$code" = 0 ] || die "pg_rewind exited $code"
  # It was seen to have WAL of its own, so that this is never true: below 16 a leader without a checkpoint is said to have
  # its old timeline still.
  ! grep -q 'no rewind required' "$keep/said" || die "pg_rewind found nothing to rewind, though there is"
  # Started meanwhile, by whomever: the two have written over each other, and only a copy is left.
  must_be_stopped
  forget_later
  as_standby "$settings"
  end_it
  say done 1
}

# pg_rewind leaves WAL of a timeline that the leader never was on, and the folder would look as if it still were there.
forget_later() {
  kept=0
  for timeline in $("$bin/pg_controldata" -D "$data" 2>/dev/null |
    sed -n -e "s/^Latest checkpoint's TimeLineID: *//p" -e "s/^Min recovery ending loc's timeline: *//p"); do
    [ "$timeline" -le "$kept" ] || kept=$timeline
  done
  [ "$kept" -gt 0 ] || die "the timeline of the rewound folder is not known"
  for file in "$data"/pg_wal/????????????????????????; do
    name=${file##*/}
    [ "$((0x${name%????????????????}))" -le "$kept" ] || rm -f "$file" || die "$file can't be removed"
  done
}

# What lies outside of the folder, `wal PATH` and `space PATH`. A copy that was broken off has taken its links away.
places() {
  [ ! -L "$data/pg_wal" ] || printf 'wal %s\n' "$(readlink -f "$data/pg_wal")"
  for space in "$data"/pg_tblspc/*; do
    [ ! -d "$space" ] || printf 'space %s\n' "$(readlink -f "$space")"
  done
}

# SOURCE SETTINGS LABEL RATE RELEASED: why a folder that is held may be erased; "" where it may not.
rebuild() {
  must_be_stopped
  [ -n "${5:-}" ] || must_be_free
  save_config
  # Asked before anything is erased: a leader that lets nobody copy would leave nothing.
  said=$("$bin/psql" -X -A -t -d "$1 replication=true connect_timeout=5" -c IDENTIFY_SYSTEM 2>&1) || die "the leader lets no copy begin: $said"
  if [ "$(cat "$keep/begun" 2>/dev/null)" != rebuild ]; then
    places > "$keep/places.new" && mv "$keep/places.new" "$keep/places" && flush "$keep/places" || die "$keep/places not written"
  fi
  begin_with rebuild
  wal=$(sed -n 's/^wal //p' "$keep/places")
  major=$(programs)
  sed -n 's/^space //p' "$keep/places" | while read -r space; do
    # This version's folder in it alone: another cluster may have its own there.
    find "$space" -mindepth 1 -maxdepth 1 -name "PG_${major}_*" -exec rm -rf {} + || exit 3
  done || die "a tablespace can't be emptied"
  mkdir -p "$data" && find "$data" -mindepth 1 -delete || die "$data can't be emptied"
  chmod 700 "$data"
  [ -z "$wal" ] || find "$wal" -mindepth 1 -delete || die "$wal can't be emptied"
  "$bin/pg_basebackup" -D "$data" -d "$1" -X stream -c fast --no-password --label="$3" \
    ${4:+"--max-rate=$4"} ${wal:+"--waldir=$wal"} || die "pg_basebackup exited $?"
  as_standby "$2"
  end_it
  rm -f "$keep/held"
  say done 1
}

# How this node reaches the repository: PROGRAM CONFIG STANZA NUMBER KIND NAME. With a spool and locks apart from those of its archiver.
reaching() {
  REPOSITORY_PROGRAM=$1 REPOSITORY_CONFIG=$2 STANZA=$3 REPOSITORY=$4 kind=$5 keeper=$6
  mkdir -p "$keep/spool" "$keep/lock" || die "$keep can't be written"
}
pgbackrest() {
  PGBACKREST_SPOOL_PATH="$keep/spool" "$REPOSITORY_PROGRAM" "--config=$REPOSITORY_CONFIG" "--stanza=$STANZA" "--repo=$REPOSITORY" \
    "--lock-path=$keep/lock" --log-level-file=off --log-level-stderr=off "$@"
}

# The histories of these timelines, by the way on which this node's recovery will ask for them: FIRST LAST. One that the
# archive has not is a timeline that nobody has yet, for a server that is promoted, though the leader is on it.
must_have_histories() {
  next=$1
  { itself; printf '%s\n' 'printf "%s" "$said"' 'exit $code'; } > "$keep/ask" || die "$keep/ask not written"
  while [ "$next" -le "$2" ]; do
    file=$(printf '%08X.history' "$next")
    said=$(sh "$keep/ask" "$file" "$keep/history") ||
      die "$keeper here does not give $file (exit $?), and the service is on timeline $2: who is put back would take $next as its own; see that the leader's archiving works: $(printf '%s' "$said" | tr '\n' ' ' | tail -c 300)"
    next=$((next + 1))
  done
  rm -f "$keep/history" "$keep/ask"
}

# Whether a backup could be restored in place, before anything is touched: LABEL, the timelines FIRST to LAST on the way to
# that of whoever leads, and how the repository is reached.
restorable() {
  backup=$1 first=$2 last=$3
  shift 3
  must_be_free
  reaching "$@"
  [ ! -L "$data/pg_wal" ] || die "pg_wal lies outside of $data, which pgBackRest would put inside"
  said=$(pgbackrest --log-level-console=error --output=json "--set=$backup" info 2>&1)
  case $said in *"\"label\":\"$backup\""*) ;; *) die "$keeper here lists no backup $backup: $(printf '%s' "$said" | tr '\n' ' ' | tail -c 400)" ;; esac
  must_have_histories "$first" "$last"
  room
}

# The folder as a backup had it, to be recovered from the archive: LABEL SETTINGS, and how the repository is reached.
restore() {
  backup=$1 settings=$2
  shift 2
  must_be_stopped
  must_be_free
  # Of a server that was killed: pgBackRest restores nothing beside it.
  rm -f "$data/postmaster.pid"
  reaching "$@"
  save_config
  begin_with restore
  # Files that are as the backup has them stay; what it has not goes, WAL of after the moment included.
  pgbackrest --log-level-console=detail "--pg1-path=$data" "--set=$backup" --type=none --delta restore || die "$keeper's restore exited $?"
  rm -f "$keep/fetched" "$keep/refused"
  itself | fetcher > "$keep/fetch" || die "$keep/fetch not written"
  as_standby "$settings"
  end_it
  say done 1
}

# How far it has come in recovery, as its files tell.
recovered() {
  state
  fetched
  say done 1
}

# Once it leads: what was only for that recovery goes out of its settings, and its own of these come back.
settle() {
  {
    grep -Ev '^(recovery_target[a-z_]*|restore_command|primary_slot_name) *=' "$data/postgresql.auto.conf"
    grep -E '^(restore_command|primary_slot_name) *=' "$keep/config/postgresql.auto.conf" 2>/dev/null
  } > "$data/postgresql.auto.conf.lifeboat" || :
  [ -s "$data/postgresql.auto.conf.lifeboat" ] || die "postgresql.auto.conf not written"
  mv "$data/postgresql.auto.conf.lifeboat" "$data/postgresql.auto.conf"
  flush "$data/postgresql.auto.conf" "$data"
  say done 1
}

# Keeps the WAL past the fork and counts it: ID TIMELINE FORK FIRST (the segment that holds the fork).
keep() {
  must_be_stopped
  to=$keep/divergent/$1 from=$data/pg_wal
  mkdir -p "$to" || die "$to can't be made"
  # Until a rewind or a copy begins, the folder has the last word: the server may have been started since.
  if [ -e "$to/complete" ]; then
    if [ -s "$keep/begun" ] || [ ! -e "$from/$4" ]; then from=$to; else rm -f "$to/complete"; fi
  fi
  [ -e "$from/$4" ] || { say missing "$4"; say kept ""; say done 1; return; }
  # Both files are named: from the folder alone it takes the segment size from any file, and one that is only room for
  # WAL to come has none. It ends with an error that says where the WAL does, and with none where that is at the end of the
  # last file (after pg_switch_wal, on a standby that has received no more).
  last=$(ls "$from" | grep -E "^${4%????????????????}[0-9A-F]{16}$" | sort | tail -n 1)
  # From the file's beginning: what was under way at the fork has rows before it.
  read_wal "$3" "$4" "$last"
  if grep -q '^::records=0$' "$to/tally"; then read_wal "$3" -s "$3" "$4" "$last"; fi
  grep -q '^::records=' "$to/tally" || die "the WAL past the fork could not be counted"
  code=$(cat "$to/code")
  [ "$code" = 0 ] ||
    grep -Eq 'could not find a valid record|invalid|unexpected|out-of-sequence|incorrect|record with' "$to/end" ||
    die "pg_waldump exited $code: $(cat "$to/end")"
  grep -v -e '^::end=' -e '^::length=' "$to/tally"
  end=$(sed -n 's/^::end=//p' "$to/tally") length=$(sed -n 's/^::length=//p' "$to/tally")
  say end "$end"
  sed -n 's/^pg_waldump: error: /waldump: /p' "$to/end" | head -n 3
  if [ ! -e "$to/complete" ]; then
    # The last record begins there, and may go on in the next file; each page has a header besides.
    upto=$(segment_of "$end" "$4" "$5" $((${length:-0} + ${length:-0} / 256 + 64)))
    for file in "$from"/????????????????????????; do
      name=${file##*/}
      [ "${name%????????????????}" = "${4%????????????????}" ] || continue
      [ "$(printf '%s\n%s\n' "$4" "$name" | sort | head -n 1)" = "$4" ] || continue
      # Those past the end are only the room for WAL to come.
      [ "$name" = "$4" ] || [ "$upto" \> "$name" ] || [ "$upto" = "$name" ] || continue
      cp -p "$file" "$to/" || die "$name not kept"
    done
    cp -p "$from"/*.history "$to/" 2>/dev/null
    "$bin/pg_controldata" -D "$data" > "$to/control" 2>/dev/null
    flush_all "$to"
    : > "$to/complete" && flush "$to/complete" "$to"
  fi
  say kept "$to"
  say done 1
}

# Counts what is past FORK, of what pg_waldump reads in $from by these words; how it went lies in $to: FORK WORD …
read_wal() {
  past=$1
  shift
  { "$bin/pg_waldump" -p "$from" "$@" 2> "$to/end"; echo $? > "$to/code"; } | tally "$past" > "$to/tally"
}

# The segment that holds an LSN (X/Y) and so many bytes more: LSN SEGMENT-OF-THE-TIMELINE BYTES MORE.
segment_of() {
  [ -n "$1" ] || { printf '%s' "$2"; return; }
  number=$((((0x${1%/*} << 32) + 0x${1#*/} + $4) / $3)) per=$((4294967296 / $3))
  printf '%s%08X%08X' "${2%????????????????}" $((number / per)) $((number % per))
}

# Of pg_waldump's lines: the commits from FORK on, by the set of relations that each touched, and the rows of each relation.
tally() {
  awk -v fork="${1:-0/0}" '
    function place(lsn,   part) {
      split(lsn, part, "/"); sub(/^0+/, "", part[2])
      return sprintf("%8s/%8s", part[1], part[2])
    }
    function relation(line,   at, rest, part) {
      at = index(line, ": rel "); if (!at) return ""
      rest = substr(line, at + 6); split(rest, part, /[ ,;]/); return part[1]
    }
    function rows(line,   at, part) {
      if (match(line, /MULTI_INSERT[^ ]* [0-9]+ tuples/) || match(line, /MULTI_INSERT[^ ]* ntuples: [0-9]+/)) {
        split(substr(line, RSTART, RLENGTH), part, " ")
        return (part[2] ~ /^[0-9]+$/) ? part[2] : part[3]
      }
      return 1
    }
    !/^rmgr:/ { next }
    {
      at = index($0, "lsn: "); lsn = substr($0, at + 5); sub(/,.*/, "", lsn)
      past = place(lsn) >= place(fork)
      if (past) { records++; end = lsn; bytes = $0 }
      at = index($0, "tx: "); tx = substr($0, at + 4); sub(/,.*/, "", tx); gsub(/ /, "", tx)
      at = index($0, "desc: "); desc = substr($0, at + 6); word = desc; sub(/[ ,+].*/, "", word)
      manager = $2
    }
    (manager == "Heap" || manager == "Heap2") && tx > 0 {
      if (word !~ /^(INSERT|MULTI_INSERT|UPDATE|HOT_UPDATE|DELETE|TRUNCATE)$/) next
      rel = relation($0); kind = (word ~ /INSERT/) ? "i" : (word ~ /UPDATE/) ? "u" : "d"
      if (!((tx, rel) in touched)) { touched[tx, rel] = 1; list[tx] = list[tx] " " rel }
      changed[tx, rel, kind] += rows($0)
      next
    }
    manager == "LogicalMessage" && tx > 0 { if (index(desc, "\"lifeboat.")) own[tx] = 1; next }
    past && manager == "Transaction" && word ~ /^COMMIT/ {
      if (word == "COMMIT_PREPARED") { match(desc, /COMMIT_PREPARED [0-9]+/); tx = substr(desc, RSTART + 16, RLENGTH - 16) }
      family = tx
      if (match(desc, /subxacts: [0-9 ]+/)) family = family " " substr(desc, RSTART + 10, RLENGTH - 10)
      count = split(family, each, " "); set = ""; mine = 0; delete seen
      for (i = 1; i <= count; i++) {
        if (each[i] in own) mine = 1
        many = split(list[each[i]], part, " ")
        for (j = 1; j <= many; j++) {
          rel = part[j]
          if (!(rel in seen)) { seen[rel] = 1; set = set (set == "" ? "" : ",") rel }
          total[rel, "i"] += changed[each[i], rel, "i"]
          total[rel, "u"] += changed[each[i], rel, "u"]
          total[rel, "d"] += changed[each[i], rel, "d"]
          all[rel] = 1
        }
      }
      if (set == "" && mine) set = "lifeboat"
      if (match(desc, /[0-9]+-[0-9]+-[0-9]+ [0-9:.]+ UTC/)) when = substr(desc, RSTART, RLENGTH - 4); else when = ""
      commits[set]++
      if (!(set in first)) first[set] = when
      last[set] = when
      at_lsn[set] = lsn
    }
    END {
      for (set in commits) printf "::commits=%d;%s;%s;%s;%s\n", commits[set], first[set], last[set], at_lsn[set], set
      for (rel in all) printf "::rows=%s;%d;%d;%d\n", rel, total[rel, "i"], total[rel, "u"], total[rel, "d"]
      printf "::records=%d\n", records
      if (records) {
        match(bytes, /tot\): *[0-9]+\/ *[0-9]+/); bytes = substr(bytes, RSTART, RLENGTH); sub(/.*\/ */, "", bytes)
        printf "::end=%s\n::length=%d\n", end, bytes
      }
    }'
}

# Heaps and indexes of every database that has amcheck, each index against its table: SOCKET PORT USER.
damage() {
  "$bin/pg_amcheck" -h "$1" -p "$2" -U "$3" --heapallindexed --all > "$keep/checked" 2>&1
  say status $?
  grep -Ev 'skipping database' "$keep/checked" | head -n 200 | sed 's/^/::finding=/'
  say done 1
}

# An owner's question to the server itself, which it can't write by: SOCKET PORT USER DATABASE QUERY.
query() {
  PGOPTIONS='-c default_transaction_read_only=on' "$bin/psql" -X -A -t -v ON_ERROR_STOP=1 -h "$1" -p "$2" -U "$3" -d "$4" -c "$5" > "$keep/asked" 2>&1
  code=$?
  if [ $code = 0 ]; then head -n 200 "$keep/asked" | sed 's/^/::row=/'; else say refused "$(tr '\n' ' ' < "$keep/asked" | tail -c 400)"; fi
  say done 1
}

# Before every start: a server that starts as a primary would be a second one.
is_standby() {
  [ -e "$data/standby.signal" ] || die "standby.signal is missing"
  [ ! -s "$keep/begun" ] || die "a $(cat "$keep/begun") has begun and not ended"
  grep -q '^primary_conninfo *=' "$data/postgresql.auto.conf" || die "primary_conninfo is missing"
  say slot "$("$bin/postgres" -D "$data" ${config:+-c "config_file=$config"} -C primary_slot_name 2>/dev/null)"
  if running; then say running 1; else say running 0; fi
  say done 1
}

case $verb in
  begin | damage | follow | history | hold | is_standby | look | query | recovered | release | restorable | room | settle | shut | status | work)
    "$verb" "$@"
    ;;
  *) die "there is no verb $verb" ;;
esac
