# WAL from pgBackRest's archive for a server that recovers, and what came of it: of a copy, and of a member that is put back.
#
# Of the caller: $data, $keep, and pgBackRest's REPOSITORY_PROGRAM, REPOSITORY_CONFIG, STANZA and REPOSITORY (its number). In KEEP:
# `fetch` the command, `fetched` every file that was asked for and its exit code, `refused` what was said of the last that failed.

# restore_command. What PostgreSQL takes for "there is no such file" is any exit from 1 to 125: it would go on without, and
# in silence. So only what the archive says it has not is 1, and anything else ends the server, which is started again.
fetcher() {
  cat <<FETCH
#!/bin/sh
if [ -e "$keep/wal/\$1" ]; then
  cp "$keep/wal/\$1" "\$2" && echo "\$(date +%s) \$1 0" >> "$keep/fetched" && exit 0
  echo "\$(date +%s) \$1 255" >> "$keep/fetched"
  exit 255
fi
said=\$(PGBACKREST_SPOOL_PATH="$keep/spool" "$REPOSITORY_PROGRAM" "--config=$REPOSITORY_CONFIG" "--stanza=$STANZA" "--repo=$REPOSITORY" \\
  "--pg1-path=$data" "--lock-path=$keep/lock" --log-level-file=off --log-level-console=error --log-level-stderr=off archive-get "\$1" "\$2")
code=\$?
echo "\$(date +%s) \$1 \$code" >> "$keep/fetched"
case \$code in 0 | 1) exit \$code ;; *) printf '%s' "\$said" > "$keep/refused"; exit 255 ;; esac
FETCH
}

# The newest that was asked for and came, how many, and whatever did not come, by its last answer.
fetched() {
  [ ! -e "$keep/fetched" ] || awk '{ code[$2] = $3; if ($3 == 0) { newest = $2; n++ } last = $0 }
    END { print "::fetched=" n ";" newest; for (name in code) if (code[name] != 0) print "::refused=" name ";" code[name] }' "$keep/fetched"
  [ ! -e "$keep/refused" ] || say why "$(tr '\n' ' ' < "$keep/refused" | tail -c 400)"
}
