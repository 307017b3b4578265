# WAL from the archive for a server that recovers, and what came of it: of a copy, and of a member that is put back.
#
# Of the caller: $data, $keep, and REPOSITORY_PROGRAM, REPOSITORY_CONFIG, STANZA and REPOSITORY (its number), REPOSITORY_KIND and
# REPOSITORY_NAME as errors have it. In KEEP: `fetch` the command, `fetched` every file that was asked for and its exit code,
# `refused` what was said of the last that failed.
kind=${REPOSITORY_KIND:-pgbackrest} keeper=${REPOSITORY_NAME:-pgBackRest}
# A Python that can't start exits 1 as well, which says nothing about the archive: it is believed with these words alone.
ABSENT='is not in the archive'

# Why pgBackRest failed, by what it printed into a FILE: its last warning, which may be the reason, and its error; of a
# request's own words no more than the path and the answer. Not its end: that is about retries and statistics.
why() {
  grep -q ' ERROR: ' "$1" 2>/dev/null || { tail -c 400 "$1" 2>/dev/null | grep -v -e '^have ' -e '^::' | tr -s ' \n' '  '; return; }
  {
    grep ' WARN: ' "$1" | tail -n 1 | cut -c 1-250
    sed -n '/ ERROR: /,$p' "$1" | grep -v -e ' DETAIL: ' -e ' INFO: ' |
      sed '/^ *\*\*\* Request Headers/,/^ *\*\*\* Response Content/d' | head -c 400
  } | sed 's/^[0-9-]* [0-9:.]* P[0-9]* *//' | tr -s ' \n' '  '
}

# restore_command, around what gets the file. What PostgreSQL takes for "there is no such file" is any exit from 1 to 125: it
# would go on without, and in silence. So only what the archive says it has not is 1, and anything else ends the server, which
# is started again.
fetcher() {
  cat <<FETCH
#!/bin/sh
if [ -e "$keep/wal/\$1" ]; then
  cp "$keep/wal/\$1" "\$2" && echo "\$(date +%s) \$1 0" >> "$keep/fetched" && exit 0
  echo "\$(date +%s) \$1 255" >> "$keep/fetched"
  exit 255
fi
$(cat)
case $kind:\$code:\$said in plain:1:*"$ABSENT"*) ;; plain:1:*) code=255 ;; esac
echo "\$(date +%s) \$1 \$code" >> "$keep/fetched"
case \$code in 0 | 1) exit \$code ;; *) printf '%s' "\$said" > "$keep/refused"; exit 255 ;; esac
FETCH
}

itself() {
  cat <<FETCH
said=\$(PGBACKREST_SPOOL_PATH="$keep/spool" "$REPOSITORY_PROGRAM" "--config=$REPOSITORY_CONFIG" "--stanza=$STANZA" "--repo=$REPOSITORY" \\
  "--pg1-path=$data" "--lock-path=$keep/lock" --log-level-file=off --log-level-console=error --log-level-stderr=off archive-get "\$1" "\$2")
code=\$?
FETCH
}

# The newest that was asked for and came, how many, and whatever did not come, by its last answer.
fetched() {
  [ ! -e "$keep/fetched" ] || awk '{ code[$2] = $3; if ($3 == 0) { newest = $2; n++ } last = $0 }
    END { print "::fetched=" n ";" newest; for (name in code) if (code[name] != 0) print "::refused=" name ";" code[name] }' "$keep/fetched"
  [ ! -e "$keep/refused" ] || say why "$(why "$keep/refused")"
}
