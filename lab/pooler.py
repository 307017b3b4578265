"""PgBouncer of the lab."""

from __future__ import annotations

from lab.layout import DATABASES, HOME
from lab.model import Lab, Node
from lab.owner import give, write_private

_INI = """\
%include {folder}/databases.ini

[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
admin_users = lifeboat
pool_mode = transaction
max_client_conn = 200
default_pool_size = 20
ignore_startup_parameters = extra_float_digits
# By default a pooler waits 15 s before it tries a server again that it could not log in to.
server_login_retry = 0.1
server_connect_timeout = 1
client_tls_sslmode = disable
server_tls_sslmode = disable
log_connections = 0
log_disconnections = 0
"""


def databases_text(lab: Lab) -> str:
    """The databases file that Lifeboat rewrites (schemas/topology.py, PgBouncerRoute), leading to the home primary."""
    leader = lab.node(HOME)
    lines = [f"{name} = host={leader.host} port={leader.port} {options}" for name, options in DATABASES.items()]
    return "\n".join(("[databases]", *lines)) + "\n"


def write_pooler(lab: Lab, node: Node, verifiers: dict[str, str]) -> None:
    """Configuration and users of one pooler; `restore_pooler` writes its databases."""
    folder = lab.paths.node(node.name)
    text = _INI.format(folder=folder, host=node.host, port=node.port)
    write_private(folder / "pgbouncer.ini", text, server=True)
    users = "".join(f'"{role}" "{verifier}"\n' for role, verifier in verifiers.items() if role != "replicator")
    write_private(folder / "users.txt", users, server=True)


def restore_pooler(lab: Lab, node: Node) -> None:
    """The databases file as it was at the beginning. The pooler must be stopped."""
    folder = lab.paths.node(node.name)
    write_private(folder / "databases.ini", databases_text(lab), server=True)
    give(folder)
