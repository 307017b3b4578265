"""The servers' configuration, rendered from the templates in lab/etc: what the lab writes, and what containers mount.

Nothing here holds a secret: those have files of their own (lab/secrets.py).
"""

from __future__ import annotations

from importlib import resources

from lab.layout import (
    CACHE_HOME,
    CACHE_RECORD,
    DATABASES,
    HOME,
    QUEUE_HOME,
    QUEUE_RECORD,
    READ_RECORD,
    RECORD,
    ZONE,
    pcp_port,
    shape_of,
)
from lab.model import Lab, Node
from lab.owner import server_name
from lab.secrets import KEY_NAME, SUPERUSER


def template(name: str) -> str:
    return (resources.files("lab") / "etc" / name).read_text(encoding="utf-8")


def postgresql_conf(node: Node, sockets: str = "") -> str:
    """`sockets`: the folder of its Unix socket, where it has one."""
    return template("postgresql.conf").format(host=node.host, port=node.port, name=node.name, sockets=sockets)


def pg_hba_conf(lab: Lab) -> str:
    """With backups, the servers' own user may come in over a Unix socket as superuser."""
    local = "local all postgres peer map=lab\n" if "backup" in lab.parts else ""
    # pg_basebackup's, where that takes the backups.
    local += "local replication postgres peer map=lab\n" if "plain" in lab.extras else ""
    return local + template("pg_hba.conf").format(network=f"{lab.network}.0.0/16")


def pg_ident_conf() -> str:
    """Who the servers' user may be, in a lab with backups."""
    return f"lab {server_name()} {SUPERUSER}\n"


def auto_conf(lab: Lab, node: Node) -> str:
    """postgresql.auto.conf, so that Lifeboat's own ALTER SYSTEM replaces what it says."""
    if node.upstream is not None:
        return f"primary_conninfo = '{conninfo(lab, node.name, node.upstream)}'\n"
    others = ",".join(f'"{name}"' for name in shape_of(lab.shape).voters if name != node.name)
    return f"synchronous_standby_names = '{f'ANY 1 ({others})' if others else ''}'\n"


def conninfo(lab: Lab, name: str, upstream: str) -> str:
    """primary_conninfo of a standby. Written here on its own: a fault of the product's must not reach the lab."""
    sender = lab.node(upstream)
    return (
        f"host={sender.host} port={sender.port} user=replicator application_name={name}"
        f" sslmode=disable passfile={lab.paths.passfile}"
    )


def objects_sql() -> str:
    """The service's own table, in its database, once its roles are there."""
    return template("objects.sql")


def copy_back_sql() -> str:
    """What an owner grants besides, so that tables can be written back from a restored copy."""
    return template("copy_back.sql")


def lifeboat_sql() -> str:
    """What Lifeboat needs in the service's database, and no more."""
    return template("lifeboat.sql")


def pgbouncer_ini(lab: Lab, node: Node) -> str:
    return template("pgbouncer.ini").format(folder=lab.paths.node(node.name), host=node.host, port=node.port)


def databases_ini(lab: Lab) -> str:
    """The databases file that Lifeboat rewrites (schemas/routes.py, PgBouncerRoute), leading to the home primary."""
    leader = lab.node(HOME)
    lines = [f"{name} = host={leader.host} port={leader.port} {options}" for name, options in DATABASES.items()]
    return "\n".join(("[databases]", *lines)) + "\n"


def pgpool_conf(lab: Lab, node: Node) -> str:
    """Backend 0 is nobody, at a port on which nothing listens; the members follow in their order."""
    lines = []
    for number, member in backends(lab).items():
        lines += [
            f"backend_hostname{number} = '{member.host}'",
            f"backend_port{number} = {member.port}",
            f"backend_weight{number} = 1",
        ]
    return template("pgpool.conf").format(
        folder=lab.paths.node(node.name),
        host=node.host,
        port=node.port,
        pcp_port=pcp_port(lab.base_port),
        nobody=pcp_port(lab.base_port) - 1,
        backends="\n".join(lines),
    )


def backends(lab: Lab) -> dict[int, Node]:
    return dict(enumerate(lab.members(), start=1))


def pool_hba_conf(lab: Lab) -> str:
    return template("pool_hba.conf").format(network=f"{lab.network}.0.0/16")


def knot_conf(lab: Lab, node: Node) -> str:
    return template("knot.conf").format(
        folder=lab.paths.node(node.name), host=node.host, port=node.port, key=KEY_NAME, zone=ZONE
    )


def zone_file(lab: Lab, node: Node) -> str:
    """The zone as it is at first, without any epoch."""
    led = {RECORD: HOME, READ_RECORD: HOME} if "database" in lab.parts else {}
    if "cache" in lab.parts:
        led[CACHE_RECORD] = CACHE_HOME
    if "queue" in lab.parts:
        led[QUEUE_RECORD] = QUEUE_HOME
    records = "\n".join(f"{record}. A {lab.node(leader).host}" for record, leader in led.items())
    return template("lab.zone").format(zone=ZONE, host=node.host, records=records)


def files(lab: Lab) -> dict[str, str]:
    """Every configuration file of the data stores, without the secret ones: path in the lab's folder → text."""
    found: dict[str, str] = {}
    for node in lab.nodes:
        place = f"nodes/{node.name}"
        match node.kind:
            case "postgresql":
                found[f"{place}/data/postgresql.conf"] = postgresql_conf(node)
                found[f"{place}/data/pg_hba.conf"] = pg_hba_conf(lab)
                found[f"{place}/data/postgresql.auto.conf"] = auto_conf(lab, node)
            case "pgbouncer":
                found[f"{place}/pgbouncer.ini"] = pgbouncer_ini(lab, node)
                found[f"{place}/databases.ini"] = databases_ini(lab)
            case "pgpool":
                found[f"{place}/pgpool.conf"] = pgpool_conf(lab, node)
                found[f"{place}/pool_hba.conf"] = pool_hba_conf(lab)
            case "knot":
                found[f"{place}/knot.conf"] = knot_conf(lab, node)
                found[f"{place}/state/lab.zone"] = zone_file(lab, node)
            case "rabbitmq" | "epmd" | "temporal" | "worker" | "jaeger" | "health" | "s3" | "host":
                pass  # they take arguments, or run nothing
            case "redis" | "sentinel":
                pass  # theirs hold secrets, since they rewrite them themselves: lab/cache.py
    return found
