"""A restore host for restore.sh alone: a folder, and programs that look like PostgreSQL's and pgBackRest's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from activities.jobs import Answers, parse, script

SCRIPT = script("restore.sh")
TARGET = "recovery_target_timeline = '1'\nrecovery_target = 'immediate'"

PGBACKREST = """#!/bin/sh
echo "$* spool=${PGBACKREST_SPOOL_PATH:-}" >> "$ROOT/calls"
if [ -s "$ROOT/code" ]; then echo "P00  ERROR: [0$(cat "$ROOT/code")]: something"; exit "$(cat "$ROOT/code")"; fi
filter=. pg1= verb=
for each in "$@"; do
  case $each in
    --filter=*) filter=${each#*=} ;; --pg1-path=*) pg1=${each#*=} ;; --*) ;;
    repo-ls | restore | info | archive-get) verb=$each; first= second= ;;
    *) if [ -z "$first" ]; then first=$each; else second=$each; fi ;;
  esac
done
case $verb in
  repo-ls) [ ! -d "$ROOT/repo/$first" ] || ls "$ROOT/repo/$first" | grep -E "$filter"; exit 0 ;;
  archive-get) [ -e "$ROOT/wal/$first" ] || exit 1; cp "$ROOT/wal/$first" "$second" ;;
  info) echo '[{"name":"unit",'; echo '"backup":[]}]' ;;
  restore)
    mkdir -p "$pg1/global" "$pg1/base/1" && echo x > "$pg1/global/pg_control" && echo 15 > "$pg1/PG_VERSION"
    echo "archive_command = 'x'" > "$pg1/postgresql.auto.conf"
    for each in standby.signal recovery.signal postmaster.pid; do echo 999999999 > "$pg1/$each"; done
    if [ -e "$ROOT/breaks" ]; then exit 39; fi ;;
esac
"""
CONTROLDATA = """#!/bin/sh
cat <<'TOLD'
Database system identifier:           7713549656427098888
max_connections setting:              200
max_worker_processes setting:         8
max_wal_senders setting:              10
max_prepared_xacts setting:           5
max_locks_per_xact setting:           64
TOLD
"""
POSTGRES = '#!/bin/sh\ncd "$2" && echo $$ > postmaster.pid && echo "$*" >> ../started && exec sleep 60\n'
PG_CTL = (
    '#!/bin/sh\nread -r pid < "$2/postmaster.pid"; kill "$pid"; rm "$2/postmaster.pid"; echo "$*" >> "$2/../stopped"\n'
)


class Host:
    """A restore host's folder of one copy, with programs that look like PostgreSQL's and pgBackRest's."""

    def __init__(self, root: Path) -> None:
        self.root, self.keep = root, root / "host" / "copies" / "c0ffee"
        self.keep.mkdir(parents=True)
        self.data, self.config = self.keep / "data", self.keep / "postgresql.conf"
        self.isolation, self.kind = "", "pgbackrest"
        (root / "bin").mkdir()
        for name, text in (
            ("pgbackrest", PGBACKREST),
            ("pg_controldata", CONTROLDATA),
            ("postgres", POSTGRES),
            ("pg_ctl", PG_CTL),
        ):
            self.program(name, text)

    def program(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def environment(self) -> dict[str, str]:
        return dict(os.environ) | {
            "ROOT": str(self.root),
            "REPOSITORY_KIND": self.kind,
            "REPOSITORY_PROGRAM": str(self.root / "bin" / "pgbackrest"),
            "REPOSITORY_CONFIG": "/etc/pgbackrest.conf",
            "STANZA": "unit",
            "REPOSITORY": "1",
            "OWN_ROLE": "lifeboat",
            "ISOLATION": self.isolation,
        }

    def ask(self, *words: str, keep: Path | None = None) -> Answers:
        """What the script answers to one verb."""
        keep = keep or self.keep
        folders = (str(keep / "data"), str(self.root / "bin"), str(keep), str(keep / "postgresql.conf"))
        argv = ["sh", "-c", 'eval "$1"', "lifeboat-restore", SCRIPT, *folders, *words]
        told = subprocess.run(
            argv, capture_output=True, text=True, timeout=20, check=False, env=self.environment()
        ).stdout
        return parse(told)

    def calls(self) -> list[str]:
        """How pgBackRest was called so far, each without what is always the same."""
        path = self.root / "calls"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def fails(self, code: int) -> None:
        """pgBackRest from now on."""
        (self.root / "code").write_text(str(code), encoding="ascii")

    def archive(self, *names: str) -> None:
        for name in names:
            folder = self.root / "repo" / "archive" / "unit" / "15-1"
            if not name.endswith(".history"):
                folder /= name[:16]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()

    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text(encoding="ascii"))


def ended(pid: int) -> bool:
    """Whether the process is gone, or but a zombie that nobody asks for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
