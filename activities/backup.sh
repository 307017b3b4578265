# What a backup takes on a machine that reaches the repository, as the servers' own user (activities/repository.py sends it,
# behind jobs.sh): on the leader's node it is taken, on the restore host it is looked at.
#
#   env REPOSITORY_PROGRAM=… sh -c 'eval "$1"' lifeboat-backup THIS DATA BIN KEEP CONFIG VERB …
#
# Lines that begin with `::` are the answer, `::name=value`; anything else is for people. POSIX sh, awk and pgBackRest, or
# what speaks its language (lifeboat-archive). In KEEP: `job/`, the newest backup, or the newest removal.
#
# The environment: REPOSITORY_PROGRAM, REPOSITORY_CONFIG (which is CONFIG too), STANZA and REPOSITORY (its number); REPOSITORY_NAME
# as errors have it; RETENTION, words that say what is kept, where no file of the program's own does.
set -u
umask 077
script=$1 data=$2 bin=$3 keep=$4 config=$5 verb=$6
shift 6
label=lifeboat-backup
keeper=${REPOSITORY_NAME:-pgBackRest}
export LC_ALL=C TZ=UTC PATH="$bin:/usr/local/bin:/usr/bin:/bin"
unset PGDATA PGHOST PGPORT PGUSER PGPASSWORD PGSERVICE PGOPTIONS

pgbackrest() {
  "$REPOSITORY_PROGRAM" "--config=$REPOSITORY_CONFIG" "--stanza=$STANZA" "--repo=$REPOSITORY" --log-level-stderr=off "$@"
}
# What only reads leaves nothing in the owner's log.
reading() { pgbackrest --log-level-file=off --log-level-console=error "$@"; }

# Into $printed.out, or the end: what pgBackRest says is in either of the two. Its listing of nothing is no error.
printed() {
  reading "$@" > "$printed.out" 2> "$printed" ||
    die "$keeper can't read its repository: $(cat "$printed" "$printed.out" | tr '\n' ' ' | tail -c 400)"
}
with_files() { printed=$(mktemp) && trap 'rm -f "$printed" "$printed.out" "$printed.all"' EXIT || die "no temporary file can be made"; }

# Every backup, and whether one is under way on this machine; of a job of ours, whose it is.
info() {
  with_files
  printed --output=json info
  # With a wrong key it quotes, byte by byte, what it can't read.
  { printf '::info='; tr -cd '[:print:]' < "$printed.out"; printf '\n'; } > "$printed"
  answers "$printed"
  if alive; then say under_way "$(cat "$keep/job/id" 2>/dev/null)"; fi
  say done 1
}

# The archive's WAL, of every timeline, as stretches without a gap (FIRST;LAST;FILES;BYTES KEPT): ARCHIVE BYTES FROM TO. FROM and
# TO are names without their timeline, both included; without TO all from FROM on.
archive() {
  with_files
  : > "$printed.all"
  if [ -n "$4" ]; then
    printed repo-ls "archive/$STANZA/$1"
    # By text: awk would take 000001E0 for a number.
    for folder in $(awk -v from="$3" -v to="$4" '
      /^[0-9A-F]+$/ && length($0) == 16 && substr($0, 9) >= substr(from, 1, 8) && substr($0, 9) <= substr(to, 1, 8)' "$printed.out"); do
      printed --output=json repo-ls "archive/$STANZA/$1/$folder"
      cat "$printed.out" >> "$printed.all"
    done
  else
    printed --output=json --recurse repo-ls "archive/$STANZA/$1"
    cat "$printed.out" > "$printed.all"
  fi
  # `.partial` files, of a timeline that was left, are none.
  tr '}' '\n' < "$printed.all" | sed -n 's/.*["/]\([0-9A-F]\{24\}\)\(-[0-9a-f]\{40\}[^"]*\)\{0,1\}":{.*"size":\([0-9]*\).*/\1 \3/p' |
    sort -u -k 1,1 | awk -v size="$2" -v from="$3" -v to="$4" '
    function number(hex,   i, n) { n = 0; for (i = 1; i <= length(hex); i++) n = n * 16 + index("0123456789ABCDEF", substr(hex, i, 1)) - 1; return n }
    function told() { if (first != "") printf "::stretch=%s;%s;%d;%.0f\n", first, last, files, bytes }
    substr($1, 9) < substr(from, 1) || (to != "" && substr($1, 9) > substr(to, 1)) { next }
    { at = number(substr($1, 9, 8)) * (4294967296 / size) + number(substr($1, 17, 8)) }
    first == "" || at != was + 1 || substr($1, 1, 8) != substr(last, 1, 8) { told(); first = $1; files = bytes = 0 }
    { last = $1; was = at; files++; bytes += $2 }
    END { told() }' > "$printed"
  answers "$printed"
  say done 1
}

# The branches that a timeline comes from: ARCHIVE TIMELINE (eight hexadecimal digits).
branches() {
  with_files
  printed --ignore-missing repo-get "archive/$STANZA/$1/$2.history"
  sed -n '/^[0-9]/s/^/::branch=/p' "$printed.out"
  say done 1
}

# ID backup KIND: begins it, or finds it. Whatever else is under way here is waited for, and never ended.
take() {
  if alive && [ "$(cat "$keep/job/id" 2>/dev/null)" != "$1" ]; then say code busy; say holder "$(cat "$keep/job/id")"; return; fi
  begin "$@"
}

# KIND. Nothing that is kept goes before the new one was seen to be good.
backup() {
  pgbackrest --log-level-console=detail "--type=$1" --no-expire-auto backup
  code=$?
  [ $code = 0 ] || { say exit $code; die "$keeper's backup exited $code"; }
  sed -n 's/.* new backup label = \([0-9A-Z_-]*\).*/::label=\1/p' "$keep/job/log" | tail -n 1
  say done 1
}

# How far the backup is: the bytes that were copied, and pgBackRest's own share in percent.
progress() {
  awk '/ backup file / && match($0, /[0-9.]+[KMGTP]?B, [0-9.]+%\)/) {
      split(substr($0, RSTART, RLENGTH), part, ", ")
      unit = index("KMGTP", substr(part[1], length(part[1]) - 1, 1))
      done += part[1] * 1024 ^ unit
      share = part[2] + 0
    }
    END { if (share != "") printf "::copied=%.0f;%s\n", done, share }' "$keep/job/log" 2>/dev/null
  say done 1
}

# What retention no longer keeps is removed, backups and WAL.
expire() {
  pgbackrest --log-level-console=info ${RETENTION:-} expire
  code=$?
  [ $code = 0 ] || { say exit $code; die "$keeper's expire exited $code"; }
  sed -n 's/.* WARN: /::warning=/p' "$keep/job/log" | head -n 3
  sed -n 's/.* INFO: class \([A-Z_]*\) \([0-9]*\) objects \([0-9]*\) bytes$/::class=\1;\3/p' "$keep/job/log"
  say done 1
}

# ID: its job is ended, and so is the backup on the server.
stop() {
  if alive && [ "$(cat "$keep/job/id" 2>/dev/null)" = "$1" ]; then
    kill -s TERM -- "-$(cat "$keep/job/pid")" 2>/dev/null
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do alive || break; sleep 0.2; done
    if alive; then kill -s KILL -- "-$(cat "$keep/job/pid")" 2>/dev/null; sleep 0.2; fi
    if alive; then die "the backup does not end"; fi
    say ended 1
  fi
  say done 1
}

# Where the folder may be a file system of its own.
room() {
  at=$keep
  while [ ! -d "$at" ]; do at=$(dirname "$at"); done
  say room_kb "$(df -Pk "$at" | awk 'NR == 2 { print $4 }')"
  say done 1
}

case $verb in
  archive | begin | branches | info | progress | room | status | stop | take | work) "$verb" "$@" ;;
  *) die "there is no verb $verb" ;;
esac
