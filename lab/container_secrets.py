"""The secrets of docker-compose.yml, made anew where they are missing: `python3 -m lab.container_secrets FOLDER`.

The folder is closed to others (0700); in it the files are readable for all, since Compose mounts a file as it is, and
the containers' user is none of this machine. Standard library only: who has an engine need not have set Lifeboat up.
"""

from __future__ import annotations

import base64
import secrets
import sys
from pathlib import Path

from lab.secrets import ROLES, key_text, roles_sql, scram_verifier, users_text

PASSWORDS = ("lifeboat", "lifeboat_probe", "app")
"""Those that a program of the estate, or a client, needs as text."""
FILES = (*PASSWORDS, "tsig", "key.conf", "replication.pgpass", "roles.sql", "users.txt")


def make(folder: Path) -> bool:
    """Write all of FILES at once; False where they are there already. The servers know the first ones' verifiers."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    there = [name for name in FILES if (folder / name).exists()]
    if len(there) == len(FILES):
        return False
    if there:
        raise FileExistsError(f"{folder} holds only {', '.join(there)}; remove it, and the volumes, and make all anew")
    passwords = {role: secrets.token_hex(16) for role in ROLES}
    verifiers = {role: scram_verifier(password) for role, password in passwords.items()}
    tsig = base64.b64encode(secrets.token_bytes(32)).decode()
    made = {name: passwords[name] for name in PASSWORDS}
    made |= {
        "tsig": tsig,
        "key.conf": key_text(tsig),
        "replication.pgpass": f"*:*:*:replicator:{passwords['replicator']}\n",
        "roles.sql": roles_sql(verifiers),
        "users.txt": users_text(verifiers),
    }
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o644)
    return True


def main() -> int:
    """0, also when there was nothing to do; 1 for a folder that holds a part of them."""
    if len(sys.argv) != 2:
        print("usage: lab.container_secrets FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    try:
        made = make(folder)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"secrets: {len(FILES)} files in {folder}{'' if made else ', as before'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
