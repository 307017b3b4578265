# WAL that is read, not replayed: where a moment lies in it. For restore.sh, which comes after this.

# Every WAL file of these stretches (FIRST;LAST) into wal/, to be read and to be recovered with: BYTES STRETCH ….
fetch_wal() {
  size=$1
  shift
  for stretch in "$@"; do
    name=${stretch%;*}
    while :; do
      if [ ! -e "$keep/wal/$name" ]; then
        wal "$name" "$keep/wal/$name.new"
        code=$?
        [ $code = 0 ] || { said=$(why "$keep/job/log"); die "WAL file $name can't be had: $keeper's archive-get exited $code${said:+: $said}"; }
        mv "$keep/wal/$name.new" "$keep/wal/$name" || die "$name not kept"
      fi
      echo "have $name"
      [ "$name" != "${stretch#*;}" ] || break
      name=$(following "$name" "$size")
    done
  done
}

following() {
  high=$((0x$(printf '%s' "$1" | cut -c 9-16))) low=$((0x$(printf '%s' "$1" | cut -c 17-24) + 1))
  if [ $low -ge $((4294967296 / $2)) ]; then high=$((high + 1)) low=0; fi
  printf '%.8s%08X%08X' "$1" $high $low
}

# Reads the WAL of these stretches from an LSN on: BYTES FROM WHAT STRETCH …. WHAT: `xid N`, `name N`, `drop DATABASE OID`
# (of a relation) or `commits` (only the newest).
scan() {
  size=$1 from=$2 what=$3
  shift 3
  fetch_wal "$size" "$@"
  for stretch in "$@"; do
    # It ends with an error where the WAL does; a stretch that was not begun with says so.
    "$bin/pg_waldump" -p "$keep/wal" ${from:+-s "$from"} "${stretch%;*}" "${stretch#*;}" 2> "$keep/scan.end"
    grep -Eq 'could not find a valid record after' "$keep/scan.end" && die "$(cat "$keep/scan.end")"
    from=
  done | found "$what" > "$keep/scan" || exit 3
  grep '^::error=' "$keep/scan" && exit 3
  cat "$keep/scan"
  say done 1
}

# Of pg_waldump's lines, those that name a moment. A DROP's is that of its lock, which it takes before it changes anything;
# a restore point has no time in them, and gets that of the last transaction that had ended.
found() {
  # By the environment: in a variable that it is given (-v), awk takes a backslash for the beginning of something.
  wanted=$1 awk '
    BEGIN { split(ENVIRON["wanted"], want, " "); name = substr(ENVIRON["wanted"], length(want[1]) + 2) }
    /^::error/ { print; next }
    $1 != "rmgr:" { next }
    {
      records++
      at = index($0, "lsn: "); lsn = substr($0, at + 5); sub(/,.*/, "", lsn)
      at = index($0, "tx: "); tx = substr($0, at + 4); sub(/,.*/, "", tx); gsub(/ /, "", tx)
      at = index($0, "desc: "); desc = substr($0, at + 6); word = desc; sub(/[ ,+].*/, "", word)
    }
    $2 == "Transaction" && word ~ /^(COMMIT|ABORT)/ {
      when = match(desc, /[0-9]+-[0-9]+-[0-9]+ [0-9:.]+ UTC/) ? substr(desc, RSTART, RLENGTH - 4) : ""
      if (word ~ /PREPARED/) { match(desc, /PREPARED [0-9]+/); tx = substr(desc, RSTART + 9, RLENGTH - 9) }
      ended = when
      if (word ~ /^COMMIT/) newest = lsn ";" tx ";" when
      family = tx
      if (match(desc, /subxacts: [0-9 ]+/)) family = family " " substr(desc, RSTART + 10, RLENGTH - 10)
      count = split(family, each, " ")
      lock = ""
      for (i = 1; i <= count; i++) {
        if (want[1] == "xid" && each[i] == want[2]) print "::moment=" lsn ";" tx ";" when ";" word
        if (each[i] in held && (lock == "" || taken[each[i]] > taken[lock])) lock = each[i]
      }
      # "dropped stats" lists kind 2 (relations), the database and what was dropped in it.
      gone = " 2/" want[2] "/" want[3] "[ ;]"
      if (lock != "" && word ~ /^COMMIT/ && (desc " ") ~ gone) print "::moment=" held[lock] ";" tx ";" when ";DROP"
      for (i = 1; i <= count; i++) delete held[each[i]]
    }
    # Of its own accord, or in the list of all that a checkpoint makes: that one names the transaction for its savepoints.
    want[1] == "drop" && $2 == "Standby" && word == "LOCK" {
      count = split(desc, part, " ")
      for (i = 2; i + 5 <= count; i += 6)
        if (part[i + 3] == want[2] && part[i + 5] == want[3] && (!(part[i + 1] in held) || (tx > 0 && !taken[part[i + 1]]))) {
          held[part[i + 1]] = lsn
          taken[part[i + 1]] = tx > 0
        }
    }
    want[1] == "name" && $2 == "XLOG" && word == "RESTORE_POINT" && substr(desc, 15) == name { print "::moment=" lsn ";0;" ended ";RESTORE_POINT" }
    END { if (newest != "") print "::newest=" newest; print "::end=" lsn; print "::records=" records + 0 }'
}

# The branches that a timeline comes from, by its history file in the archive: TIMELINE (eight hexadecimal digits).
history() {
  wal "$1.history" "$keep/wal/$1.history"
  code=$?
  case $code in
    0) sed -n '/^[0-9]/s/^/::branch=/p' "$keep/wal/$1.history" ;;
    1) say none 1 ;;
    *) die "$keeper's archive-get exited $code" ;;
  esac
  say done 1
}
