"""The lab's passwords: made anew for each lab, in files of mode 0600.

Standard library only, for lab/container_secrets.py.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from importlib import resources

from lab.owner import write_private
from lab.paths import Folder

SUPERUSER = "postgres"
"""The lab's own, for its set-up, its bench and its referee; Lifeboat has only what lab/etc/lifeboat.sql grants."""
ROLES = (SUPERUSER, "lifeboat", "replicator", "app", "lifeboat_probe", "lifeboat_restore")
CACHE_USERS = ("app", "lifeboat", "replicator", "sentinel", "referee")
"""On the cache's servers; the secret of each is `cache-NAME`. `referee` is the lab's own, and may do everything."""
SENTINEL_USERS = ("app", "lifeboat", "peer")
"""On Sentinels; the secret of each is `sentinel-NAME`. They are each other's `peer`."""
QUEUE_USERS = ("app", "lifeboat", "shovel", "referee")
"""On RabbitMQ; the secret of each is `queue-NAME`, and `queue-cookie` is what its nodes know each other by."""
BACKUP_SECRETS = ("s3-key", "s3-secret", "repo-cipher")
"""Object storage's key and its secret, and the passphrase of the repository that pgBackRest keeps there."""
KEY_NAME = "lifeboat-lab"
_ITERATIONS = 4096
"""PostgreSQL's own number (src/include/common/scram-common.h)."""


def make_secrets(folder: Folder) -> None:
    """Passwords of every role and of the supervisor, the key of DNS updates, and replication's passfile."""
    cache = (*(f"cache-{user}" for user in CACHE_USERS), *(f"sentinel-{user}" for user in SENTINEL_USERS))
    queue = (*(f"queue-{user}" for user in QUEUE_USERS), "queue-cookie")
    for name in (*ROLES, "supervisor", "pcp", *cache, *queue, *BACKUP_SECRETS):
        write_private(folder.secret(name), secrets.token_hex(16))
    write_private(folder.secret("tsig"), base64.b64encode(secrets.token_bytes(32)).decode())
    password = folder.secret("replicator").read_text(encoding="utf-8")
    write_private(folder.passfile, f"*:*:*:replicator:{password}\n", server=True)


def roles_sql(verifiers: Mapping[str, str]) -> str:
    """Statements that give each role its password's verifier; the superuser is there already."""
    lines = []
    for role, verifier in verifiers.items():
        verb = "ALTER" if role == SUPERUSER else "CREATE"
        replication = " REPLICATION" if role == "replicator" else ""
        lines.append(f"{verb} ROLE {role} LOGIN{replication} PASSWORD '{verifier}';\n")
    return "".join(lines)


def key_text(secret: str) -> str:
    """The TSIG key of DNS updates, which Knot's configuration includes."""
    template = resources.files("lab") / "etc" / "key.conf"
    return template.read_text(encoding="utf-8").format(key=KEY_NAME, secret=secret)


def users_text(verifiers: Mapping[str, str]) -> str:
    """PgBouncer's auth_file: whoever may come through a pooler."""
    return "".join(
        f'"{role}" "{verifier}"\n' for role, verifier in verifiers.items() if role not in (SUPERUSER, "replicator")
    )


def pcp_text(password: str) -> str:
    """Pgpool-II's pcp.conf: who may attach and detach its backends."""
    return f"lifeboat:{hashlib.md5(password.encode(), usedforsecurity=False).hexdigest()}\n"


def pool_passwords_text(passwords: Mapping[str, str]) -> str:
    """Pgpool-II's pool_passwd: it logs in to each server for its clients, and SCRAM takes the password itself."""
    return "".join(f"{role}:TEXT{password}\n" for role, password in passwords.items())


def scram_verifier(password: str) -> str:
    """What PostgreSQL and PgBouncer keep of a password (RFC 5803).

    The same text in both lets PgBouncer log in with the keys of its client, without PBKDF2 (its manual, auth_file).
    """
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    parts = [base64.b64encode(each).decode() for each in (salt, stored, server)]
    return f"SCRAM-SHA-256${_ITERATIONS}:{parts[0]}${parts[1]}:{parts[2]}"
