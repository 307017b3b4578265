# A copy's server with a network of its own, and who fetches WAL for it outside: for restore.sh, which comes after this.
#
# In KEEP: `coming/` what is being fetched, `shared` why the server has no network of its own, `fetcher.log`.

# Whether a server here can have a network of its own; else $why not. In it not even loopback is up, and a socket by its
# path is the only way through. The server keeps its user and its process id.
enclosed='unshare --user --map-current-user --net'
bubble() {
  why=
  if [ "${ISOLATION:-}" = configuration ]; then why="isolation: configuration is declared"
  elif [ -e "$keep/handed" ]; then why="readers come to it"
  elif ! why=$($enclosed true 2>&1); then why="no network namespace can be had: $why"
  fi
  [ -z "$why" ]
}

# The server, and where it has a network of its own, who fetches WAL for it outside. They are tied by pipes alone: where the
# one ends the other reads an end, and ends as well.
start() {
  end_fetcher
  rm -f "$keep/shared"
  if ! bubble; then
    case ${ISOLATION:-}/$why in namespace/no\ *) die "$why" ;; esac
    printf '%s' "$why" > "$keep/shared"
    itself | fetcher > "$keep/fetch" || die "$keep/fetch not written"
    setsid "$bin/postgres" -D "$data" -c "config_file=$config" >> "$keep/server.log" 2>&1 < /dev/null &
    await_server
    return
  fi
  by_another | fetcher > "$keep/fetch" || die "$keep/fetch not written"
  rm -rf "$keep/asked" "$keep/answered" "$keep/coming" && mkdir "$keep/coming" && mkfifo "$keep/asked" "$keep/answered" && cd "$keep/coming" || die "$keep/coming can't be made"
  # Opened for both at first: a pipe with a name is else not opened before somebody has its other end.
  exec 3<> "$keep/asked" 4< "$keep/asked" 5> "$keep/asked" 3<> "$keep/answered" 6< "$keep/answered" 7> "$keep/answered" 3>&-
  rm -f "$keep/asked" "$keep/answered"
  setsid sh -c 'eval "$1"' "$label" "$script" "$data" "$bin" "$keep" "$config" serve <&4 >&7 2>> "$keep/fetcher.log" 4<&- 5>&- 6<&- 7>&- &
  cd /
  setsid $enclosed "$bin/postgres" -D "$data" -c "config_file=$config" >> "$keep/server.log" 2>&1 < /dev/null 4<&- 7>&- &
  exec 4<&- 5>&- 6<&- 7>&-
  await_server
}

# Its PID file tells that it runs; one that ends before it has one ended in vain.
await_server() {
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    if running || ! kill -0 $! 2>/dev/null; then break; fi
    sleep 0.05
  done
}

# Longer than pgBackRest waits for anything itself (protocol-timeout).
ANSWER_S=1860

# By the two pipes that the server was started with. An answer may be that of an earlier one, which was ended before it read it:
# with all that it had begun (--foreground), or two would read.
by_another() {
  cat <<FETCH
trap '' PIPE
printf '%s %s\n' "\$\$" "\$1" >&5
answer=\$(timeout --foreground $ANSWER_S sh -c 'while read -r id rest; do [ "\$id" != "\$0" ] || { echo "\$rest"; break; }; done' "\$\$" <&6 5>&-)
[ -n "\$answer" ] || answer="255 what fetches WAL for the copy has ended, or does not answer"
code=\${answer%% *} said=\${answer#* }
[ "\$code" != 0 ] || mv "$keep/coming/\$\$" "\$2" || code=255 said="\$1 can't be moved to \$2"
FETCH
}

# `ID NAME` a line comes in, `ID CODE WHY` goes out, CODE pgBackRest's own. It ends with the server, the other end of both.
serve() {
  while read -r id name; do
    case $id in '' | *[!0-9]*) continue ;; esac
    case $name in
      '' | *[!0-9A-Za-z._]* | .*) code=255 said="$name is no WAL file's name" ;;
      *)
        said=$(run=exec repository "--pg1-path=$data" "--lock-path=$keep/lock" --log-level-console=error archive-get "$name" "$keep/coming/$id" < /dev/null)
        code=$?
        ;;
    esac
    [ -z "$said" ] || said=$(printf '%s' "$said" | tr '\n' ' ')
    printf '%s %s %s\n' "$id" "$code" "$said"
  done
}

# Found by the folder that they work in, which nobody else has: who fetches, frozen ones too, and what they have begun.
end_fetcher() {
  looks=0
  while [ $looks -lt 100 ]; do
    found=
    for each in /proc/[0-9]*; do
      if [ "$each/cwd" -ef "$keep/coming" ]; then
        found=1
        kill -s KILL "${each#/proc/}" 2>/dev/null
      fi
    done
    [ -n "$found" ] || return 0
    looks=$((looks + 1))
    sleep 0.02
  done
  die "what fetches WAL for the copy does not end"
}

# Whom the server's processes could reach, as the kernel tells it of them: the addresses that they have, their routes.
reach() {
  net=/proc/$pid/net
  if [ ! -r "$net/fib_trie" ] || [ ! -r "$net/route" ] || [ ! -e "/proc/$pid/ns/net" ]; then return; fi
  if [ "/proc/$pid/ns/net" -ef /proc/self/ns/net ]; then say network shared; return; fi
  say network own
  set -- "$net/fib_trie" "$net/route"
  for each in if_inet6 ipv6_route; do [ ! -r "$net/$each" ] || set -- "$@" "$net/$each"; done
  awk '
    function tell(what) { if (!told[what]++ && n++ < 6) print "::reaches=has " what }
    { file = FILENAME; sub(/.*\//, "", file) }
    # A line of an address, then one of what it is to this host.
    file == "fib_trie" && $1 == "|--" { address = $2 }
    file == "fib_trie" && $2 == "host" && $3 == "LOCAL" { tell(address) }
    file == "route" && FNR > 1 { tell("a route by " $1) }
    file == "if_inet6" { tell($1) }
    # Those of a loopback that is down lead nowhere.
    file == "ipv6_route" && $NF != "lo" { tell("a route by " $NF) }' "$@"
}
