# What the scripts that work on a node share: answers, whether a server runs, and jobs. Each begins with this text.
#
# Of the caller: $script its own text, $data the folder of the data, $bin PostgreSQL's programs, $keep a folder of Lifeboat's
# beside the data, $config its configuration file; $label its name among processes.

# Onto the disk, these files and folders alone: whatever else the node is writing is not waited for.
flush() { sync "$@" 2>/dev/null || sync; }
flush_all() { find "$@" -exec sync {} + 2>/dev/null || sync; }

say() { printf '::%s=%s\n' "$1" "$2"; }
die() { say error "$*"; exit 3; }

# Of builtins alone: it is asked every few milliseconds while clients wait for a stop.
running() {
  { read -r pid < "$data/postmaster.pid"; } 2>/dev/null || return 1
  case $pid in '' | *[!0-9]*) return 1 ;; esac
  kill -0 "$pid" 2>/dev/null || return 1
  # Another process may have its number by now; a zombie has no working folder.
  [ ! -d /proc/self ] || [ "/proc/$pid/cwd" -ef "$data" ]
}
# ID VERB …: begins a job, or finds it under way or ended. Another that is under way is ended first.
begin() {
  id=$1
  shift
  job=$keep/job
  if [ "$(cat "$job/id" 2>/dev/null)" = "$id" ]; then
    if alive || [ "$(cat "$job/code" 2>/dev/null)" = 0 ]; then status; return; fi
  elif alive; then
    kill -s TERM -- "-$(cat "$job/pid")" 2>/dev/null
    for _ in 1 2 3 4 5 6 7 8 9 10; do alive || break; sleep 0.2; done
    if alive; then kill -s KILL -- "-$(cat "$job/pid")" 2>/dev/null; sleep 0.2; fi
    if alive; then die "a job of before does not end"; fi
  fi
  rm -rf "$job" && mkdir -p "$job" && printf '%s' "$id" > "$job/id" || die "$job can't be made"
  # A session of its own, which outlives this one.
  setsid sh -c 'eval "$1"' "$label" "$script" "$data" "$bin" "$keep" "$config" work "$@" > "$job/log" 2>&1 < /dev/null &
  echo $! > "$job/pid"
  status
}

work() {
  trap '' HUP
  ("$@")
  echo $? > "$keep/job/code.new" && mv "$keep/job/code.new" "$keep/job/code"
}

# Of builtins as well: a copy needs the processor that a look would take.
alive() {
  { read -r pid < "$keep/job/pid"; } 2>/dev/null || return 1
  [ ! -e "$keep/job/code" ] && kill -0 "$pid" 2>/dev/null
}

# A job's answers. Of a command's output its last 24,000 characters come through: many are packed.
answers() {
  told=$(grep '^::' "$1")
  if [ ${#told} -le 16000 ]; then
    [ -z "$told" ] || printf '%s\n' "$told"
    return
  fi
  packed=$(printf '%s\n' "$told" | gzip -9c | base64 | tr -d '\n')
  if [ ${#packed} -le 22000 ]; then say packed "$packed"; else say error "too much for an answer (${#packed} characters)"; fi
}

# How the newest job stands, once it has ended or a moment has passed.
status() {
  job=$keep/job looks=0
  while [ $looks -lt 40 ] && [ ! -e "$job/code" ] && alive; do
    if [ $looks -lt 10 ]; then sleep 0.05; else sleep 0.1; fi
    looks=$((looks + 1))
  done
  say job "$(cat "$job/id" 2>/dev/null)"
  if [ -e "$job/code" ]; then
    say code "$(cat "$job/code")"
    answers "$job/log"
    grep -v '^::' "$job/log" | tr '\r' '\n' | tail -n 5 | sed 's/^/::line=/'
  elif alive; then
    say code running
    tr '\r' '\n' < "$job/log" | tail -n 1 | sed 's/^/::line=/'
  else
    say code killed
    tr '\r' '\n' < "$job/log" | tail -n 5 | sed 's/^/::line=/'
  fi
}
