"""A topology that can't be used says which line, which field, what is wrong and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from activities.topology import load_topology
from schemas.failures import TopologyInvalid

EXAMPLE = Path(__file__).parents[2] / "topology.yaml"
SMALL = """\
regions:
  - { name: us-east-1, role: primary }
  - { name: us-west-2, role: standby }
zone:
  name: db.example.com
  servers: ["ns-eu-1.db.example.com:53"]
  key_name: lifeboat
  key_secret: env:LIFEBOAT_TSIG_KEY
services:
  - name: counting-db
    rto_s: 300
    rpo_s: 60
    home: pg-east-1
    members:
      - { name: pg-east-1, host: pg-east-1.example.internal, port: 5432, region: us-east-1 }
      - { name: pg-east-2, host: pg-east-2.example.internal, port: 5432, region: us-east-1 }
      - { name: pg-west-1, host: pg-west-1.example.internal, port: 5432, region: us-west-2 }
    access:
      database: counting
      password: env:LIFEBOAT_PG_PASSWORD
    synchronous:
      voters: [pg-east-1, pg-east-2]
    routes:
      - kind: dns
        name: primary
        record: counting.db.example.com
        port: 5432
      - kind: pgbouncer
        name: pgbouncer-east
        host: pgbouncer-1.example.internal
        port: 6432
        region: us-east-1
        databases: { counting: dbname=counting }
        databases_file: /etc/pgbouncer/databases.ini
"""


@pytest.fixture
def problems(tmp_path):
    """Load SMALL with each of `changes` made once; returns the problems, without the file's folder."""

    def load(*changes: tuple[str, str], text: str = SMALL) -> list[str]:
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        file = tmp_path / "topology.yaml"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(TopologyInvalid) as raised:
            load_topology(file)
        return raised.value.detail.replace(f"{tmp_path}/", "").splitlines()

    return load


def test_the_example_is_the_estate_of_the_requirements():
    topology = load_topology(EXAMPLE)
    service = topology.service("counting-db")
    assert [region.name for region in topology.regions] == ["us-east-1", "us-west-2", "eu-west-1"]
    assert (service.rto_s, service.rpo_s, service.error_budget_s) == (300, 60, 259.2)
    assert [member.region for member in service.members] == ["us-east-1"] * 4 + ["us-west-2"] * 4
    assert len(service.synchronous.voters) - 1 > service.synchronous.acknowledgements
    assert topology.vantages(service) == ["us-east-1", "us-west-2", "eu-west-1"]


def test_a_small_one_is_loaded_from_text_or_path(tmp_path):
    file = tmp_path / "topology.yaml"
    file.write_text(SMALL, encoding="utf-8")
    assert load_topology(str(file)) == load_topology(file)


def test_unknown_field_gets_a_suggestion(problems):
    assert problems(("rpo_s: 60", "rpo_s: 60\n    rto: 300")) == [
        "topology.yaml:13: services.0.rto: is no field that is known here; did you mean `rto_s`?"
    ]


def test_unknown_field_within_a_kind_of_route(problems):
    assert problems(("databases_file: ", "admin_pasword: env:X\n        databases_file: ")) == [
        "topology.yaml:34: services.0.routes.1.admin_pasword: is no field that is known here;"
        " did you mean `admin_password`?"
    ]


def test_unknown_field_like_no_other_lists_what_is_known(problems):
    (problem,) = problems(("{ name: us-west-2, role: standby }", "{ name: us-west-2, role: standby, colour: red }"))
    assert problem == (
        "topology.yaml:3: regions.1.colour: is no field that is known here; known here: geography, name, role, tier"
    )


def test_duplicate_address(problems):
    assert problems(("pg-east-2.example", "pg-east-1.example")) == [
        "topology.yaml:16: services.0.members.1.host: pg-east-1.example.internal:5432 is also the address of"
        " pg-east-1; give each member an address of its own"
    ]


def test_voter_that_is_not_a_member(problems):
    assert problems(("voters: [pg-east-1, pg-east-2]", "voters: [pg-east-1, pg-east-2, pg-north-1]")) == [
        "topology.yaml:22: services.0.synchronous.voters.2: pg-north-1 is not a member; one of: pg-east-1, pg-east-2,"
        " pg-west-1"
    ]


@pytest.mark.parametrize(
    ("old", "new", "line", "where", "what"),
    [
        ("home: pg-east-1", "home: pg-east-9", 13, "services.0.home", "is not a member"),
        ("name: pg-west-1", "name: pg-east-1", 17, "services.0.members.2.name", "declared twice"),
        ("region: us-west-2 }", "region: us-west-3 }", 17, "services.0.members.2.region", "is not a region"),
        ("region: us-west-2 }", "region: us-west-2, follows: x }", 17, "services.0.members.2.follows", "not a member"),
        ("counting.db.example.com", "counting.example.org", 26, "services.0.routes.0.record", "not in the zone"),
        ("port: 5432, region: us-west-2", "port: 99999, region: us-west-2", 17, "services.0.members.2.port", "65535"),
        ("port: 6432", "port: many", 31, "services.0.routes.1.port", "'many'"),
        ("rto_s: 300", "rto_s: -1", 11, "services.0.rto_s", "should be greater than 0"),
        ("role: standby", "role: standbye", 3, "regions.1.role", "did you mean `standby`?"),
        ("kind: pgbouncer", "kind: pgbounce", 28, "services.0.routes.1", "did you mean `pgbouncer`?"),
        ("kind: dns", "knd: dns", 24, "services.0.routes.0", "has no `kind`"),
        ("    rto_s: 300\n", "", 10, "services.0.rto_s", "is missing; add it"),
        ("name: pg-west-1", "name: PG West", 17, "services.0.members.2.name", "is no name"),
        ("name: pg-west-1", "name: 7", 17, "services.0.members.2.name", "put it in quotes"),
        ("counting: dbname=counting", "counting: 7", 33, "services.0.routes.1.databases.counting", "in quotes"),
        ("servers: [", "servers: [] # [", 6, "zone.servers", "give at least 1"),
        ("voters: [pg-east-1, pg-east-2]", "voters: pg-east-1", 22, "services.0.synchronous.voters", "not a list"),
        ("rpo_s: 60", "rpo_s: 60\n    detection: 7", 13, "services.0.detection", "not a group of fields"),
        (
            "voters: [pg",
            "acknowledgements: 2\n      voters: [pg",
            22,
            "services.0.synchronous.acknowledgements",
            "lower",
        ),
    ],
)
def test_each_problem_names_line_place_and_remedy(problems, old, new, line, where, what):
    (problem,) = problems((old, new))
    assert problem.startswith(f"topology.yaml:{line}: {where}: ")
    assert what in problem
    assert "; " in problem or problem.endswith("?")


def test_every_problem_is_listed_in_the_order_of_the_file(problems):
    found = problems(("rto_s: 300", "rto_s: 0"), ("role: primary", "role: king"), ("port: 6432", "port: 0"))
    assert [problem.split(":")[1] for problem in found] == ["2", "11", "31"]


@pytest.mark.parametrize("secret", ["hunter2", "pa:ss", "Env:X"])
def test_a_secret_itself_is_refused_and_never_repeated(problems, secret):
    (problem,) = problems(("password: env:LIFEBOAT_PG_PASSWORD", f"password: {secret}"))
    assert "services.0.access.password: is no reference to a secret; write env:NAME" in problem
    assert secret not in problem


def test_a_secret_that_is_a_number_is_not_repeated_either(problems):
    (problem,) = problems(("password: env:LIFEBOAT_PG_PASSWORD", "password: 271828"))
    assert "271828" not in problem


def test_a_field_given_twice(problems):
    assert problems(("rpo_s: 60", "rpo_s: 60\n    rpo_s: 30")) == [
        "topology.yaml:13: services.0.rpo_s: is given already on line 12; keep one of them"
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is no topology"),
        ("- 1\n", "is no topology"),
        ("regions: [\n", ":2: is not well-formed YAML"),
        ("regions:\n\t- x\n", ":2: is not well-formed YAML"),
        ("regions: !!python/object:os.system x\n", ":1: is not well-formed YAML"),
        ("regions: [*nobody]\n", ":1: is not well-formed YAML"),
        ("a: \x00\n", "is not YAML"),
    ],
)
def test_malformed_yaml(problems, text, what):
    (problem,) = problems(text=text)
    assert what in problem


def test_an_alias_to_itself_ends(problems):
    assert "regions.0: a list is not a group of fields" in problems(text="regions: &a [*a]\n")[0]


def test_a_file_that_can_not_be_read(tmp_path):
    with pytest.raises(TopologyInvalid, match=r"missing\.yaml: can't be read: No such file or directory; name a file"):
        load_topology(tmp_path / "missing.yaml")
    with pytest.raises(TopologyInvalid, match="can't be read: Is a directory"):
        load_topology(tmp_path)


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "topology.yaml").write_bytes(b"regions: \xff\n")
    with pytest.raises(TopologyInvalid, match=r"not UTF-8 text \(byte 9\); save it as UTF-8"):
        load_topology(tmp_path / "topology.yaml")


HAPROXY = """\
    routes:
      - kind: haproxy
        name: haproxy-east
        host: 10.0.1.5
        port: 5432
        region: us-east-1
        socket: "10.0.1.5:9999"
        backend: counting
        servers: { pg-east-1: a, pg-east-2: b }
"""
FILE = """\
    routes:
      - kind: file
        name: app
        region: us-east-1
        path: /etc/app.env
        template: "HOST=${host}"
        reload: [systemctl, reload, app]
"""


@pytest.mark.parametrize(
    ("routes", "old", "new", "told"),
    [
        (
            HAPROXY,
            '"10.0.1.5:9999"',
            "here",
            "routes.0.socket: 'here' is not allowed; write host:port, or the absolute",
        ),
        (HAPROXY, "counting\n", "a b\n", "routes.0.backend: 'a b' is not allowed; write it as HAProxy's configuration"),
        (HAPROXY, "pg-east-2: b", "pg-west-9: b", "routes.0.servers.pg-west-9: pg-west-9 is not a member; one of: "),
        (HAPROXY, ", pg-east-2: b", "", "routes.0.servers: pg-east-2 may lead, and no server stands for it; add one"),
        (HAPROXY, "region: us-east-1", "region: us-east-9", "routes.0.region: us-east-9 is not a region; one of: "),
        (FILE, "${host}", "${hots}", "routes.0.template: `${hots}` is not known; one of ${host}, ${port}, "),
        (FILE, "[systemctl", "[$, systemctl", "routes.0.reload.0: a `$` stands alone in it; write `$$` for a dollar"),
        (FILE, "/etc/app.env", "app.env", "routes.0.path: 'app.env' is not allowed; write an absolute path"),
    ],
)
def test_a_route_that_cannot_be(problems, routes, old, new, told):
    found = problems(("    routes:\n", routes.replace(old, new, 1)))
    assert any(told in problem for problem in found), found


def test_a_ttl_beyond_the_rto(problems):
    (found,) = problems(
        ("        port: 5432\n      - kind: pg", "        port: 5432\n        ttl_s: 300\n      - kind: pg")
    )
    assert "routes.0.ttl_s: clients may keep the old address for 300 s, and the RTO is 300 s; lower it" in found


@pytest.mark.parametrize(
    ("new", "told"),
    [
        ("zone:\n  kind: route54\n", "zone: its kind `route54` is not known; did you mean `route53`?"),
        ("zone:\n  kind: route53\n", "zone.hosted_zone_id: is missing; add it"),
        ("zone:\n  key_nam: x\n", "zone.key_nam: is no field that is known here; did you mean `key_name`?"),
        ("zone:\n  epochs: { kind: s3, bucket: b }\n", "zone.epochs.region: is missing; add it"),
        (
            "reports: { kind: folder, path: here }\nzone:\n",
            "reports.path: 'here' is not allowed; write an absolute path",
        ),
    ],
)
def test_a_zone_or_a_store_that_cannot_be(problems, new, told):
    found = problems(("zone:\n", new))
    assert any(told in problem for problem in found), found


CONTROL = "control: { start: [a], stop: [b]"
ACL = "kind: network-acl, region: us-east-1, network_acl_id: acl-1, deny_acl_id: acl-2"


def with_member(tmp_path: Path, *more: str) -> Path:
    """SMALL, whose first members have these fields as well."""
    text = SMALL
    for number, each in enumerate(more, 1):
        host = f"host: pg-east-{number}.example.internal"
        assert host in text
        text = text.replace(host, f"{host}, {each}")
    file = tmp_path / "estate.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_node_control_without_a_kind_is_a_command(tmp_path: Path) -> None:
    control = load_topology(with_member(tmp_path, CONTROL + " }")).services[0].member("pg-east-1").control
    assert control is not None
    assert (control.kind, control.longest_s()) == ("command", 10)


@pytest.mark.parametrize(
    ("more", "place", "told"),
    [
        ([CONTROL + ", kil: [c] }"], "members.0.control.kil", "did you mean `kill`?"),
        ([CONTROL + ", kill: [] }"], "members.0.control.kill", "give at least 1"),
        ([CONTROL + ", kind: telnet }"], "members.0.control", "its kind `telnet` is not known"),
        (
            [CONTROL + ", kind: ssh, host: h, user: u, key: 'env:KEY' }"],
            "members.0.control.known_hosts",
            "is missing; add it",
        ),
        (
            [CONTROL + ", kind: ssh, host: h, user: u, key: s3cr3t }"],
            "members.0.control.key",
            "never the secret itself",
        ),
        (
            [f"isolation: {{ {ACL}, subnet_id: subnet-1 }}"] * 2,
            "members.1.isolation.subnet_id",
            "also that of pg-east-1",
        ),
        (
            ["isolation: { " + ACL.replace("acl-2", "acl-1") + ", subnet_id: subnet-1 }"],
            "members.0.isolation.deny_acl_id",
            "make one that denies",
        ),
        (
            ["isolation: { kind: security-group, region: us-east-1 }"],
            "members.0.isolation",
            "known here: network-acl, stop-instance",
        ),
    ],
)
def test_node_control_and_isolation_that_can_not_be_used(
    tmp_path: Path, more: list[str], place: str, told: str
) -> None:
    with pytest.raises(TopologyInvalid) as refused:
        load_topology(with_member(tmp_path, *more))
    (line,) = [line for line in str(refused.value).splitlines() if f"services.0.{place}: " in line]
    assert told in line
    assert "s3cr3t" not in str(refused.value)


def test_two_backends_with_one_state_file(problems):
    one = HAPROXY + "        state_file: /var/lib/haproxy/state\n"
    both = one + one.replace("    routes:\n", "").replace("haproxy-east", "haproxy-west").replace("counting", "billing")
    (found,) = problems(("    routes:\n", both))
    assert "routes.1.state_file: /var/lib/haproxy/state is that of haproxy-east as well" in found


def test_voters_whose_names_have_no_room_in_the_record(problems):
    names = [f"ip-10-0-1-{number}.us-east-1.compute.internal" for number in range(8)]
    members = "".join(f"      - {{ name: {name}, host: {name}, port: 5432, region: us-east-1 }}\n" for name in names)
    (found,) = problems(
        ("    access:\n", members + "    access:\n"),
        ("voters: [pg-east-1, pg-east-2]", f"voters: [pg-east-1, {', '.join(names)}]"),
    )
    assert "synchronous.voters: their names take" in found


def test_a_name_cannot_lead_to_ipv6(problems):
    (found,) = problems(("host: pg-east-2.example.internal", 'host: "2001:db8::2"'))
    assert "members.1.host: 2001:db8::2 is IPv6, and DNS routes are A records" in found


def test_members_that_follow_each_other(problems):
    found = problems(
        ("host: pg-east-2.example.internal,", "follows: pg-west-1, host: pg-east-2.example.internal,"),
        ("host: pg-west-1.example.internal,", "follows: pg-east-2, host: pg-west-1.example.internal,"),
    )
    assert "members.1.follows: pg-east-2 follows itself in the end" in found[0]
    assert "members.2.follows: pg-west-1 follows itself in the end" in found[1]


BACKUP = """\
    backup:
      repository: { stanza: counting }
      host:
        name: restores
        region: us-east-1
        directory: /srv/copies
        bin: /usr/lib/postgresql/15/bin
        host: 10.0.1.9
        ports: [7000, 7009]
      checks:
        - { name: counted, sql: SELECT true }
        - { name: newest, sql: SELECT true }
      newest: [{ table: public.counting_results, column: counted_at }]
      copy_back: { user: lifeboat_restore }
"""


def test_a_backup_is_declared_with_little(tmp_path: Path) -> None:
    file = tmp_path / "topology.yaml"
    file.write_text(SMALL.replace("    routes:\n", BACKUP + "    routes:\n"), encoding="utf-8")
    backup = load_topology(file).database("counting-db").backup
    assert backup is not None
    assert (backup.repository.kind, backup.repository.config) == ("pgbackrest", "/etc/pgbackrest/pgbackrest.conf")
    assert (backup.host.kind, backup.host.ports, backup.host.preload) == ("folder", (7000, 7009), [])
    assert [each.expect for each in backup.checks] == ["t", "t"]


def test_a_plain_archive_is_declared_with_little(tmp_path: Path) -> None:
    declared = BACKUP.replace("stanza: counting", "kind: plain, stanza: counting")
    file = tmp_path / "topology.yaml"
    file.write_text(SMALL.replace("    routes:\n", declared + "    routes:\n"), encoding="utf-8")
    backup = load_topology(file).database("counting-db").backup
    assert backup is not None
    assert (backup.repository.kind, backup.repository.config) == ("plain", "/etc/lifeboat/archive.ini")
    assert backup.repository.retention_words() == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[7000, 7009]", "[7009, 7000]", "backup.host.ports: 7009 to 7000 are no ports that a copy could be handed"),
        ("[7000, 7009]", "[0, 7009]", "backup.host.ports: 0 to 7009 are no ports"),
        ("[7000, 7009]", "[7000, 65536]", "backup.host.ports: 7000 to 65536 are no ports"),
        ("        ports: [7000, 7009]\n", "", "backup.host.ports: 0 to 0 are no ports"),
        ("[7000, 7009]", "[7000]", "backup.host.ports"),
        ("name: newest, sql", "name: counted, sql", "backup.checks.1.name: counted is declared twice; give each query"),
        ("region: us-east-1", "region: us-east-9", "backup.host.region: us-east-9 is not a region; one of: us-east-1"),
        ("/srv/copies", "copies", "backup.host.directory: 'copies' is not allowed; write an absolute path"),
        (
            "public.counting_results",
            "counting_results",
            "backup.newest.0.table: 'counting_results' is not allowed; write schema.table",
        ),
        ("stanza: counting", "stanze: counting", "backup.repository.stanze: is no field that is known here; did you"),
        ("stanza: counting", "kind: barman", "backup.repository"),
        ("name: restores", "name: Restore Host", "backup.host.name: 'Restore Host' is no name"),
        ("sql: SELECT true }", 'sql: "" }', "backup.checks.0.sql"),
    ],
)
def test_a_backup_that_cannot_be(problems, old, new, told):
    assert old in BACKUP
    found = problems(("    routes:\n", BACKUP.replace(old, new, 1) + "    routes:\n"))
    assert any(f"services.0.{told}" in problem for problem in found), found
    assert all(problem.startswith("topology.yaml:") for problem in found)


def test_ports_are_nobodys_concern_where_no_copy_is_handed_over(tmp_path: Path) -> None:
    alone = BACKUP.replace("        host: 10.0.1.9\n        ports: [7000, 7009]\n", "")
    file = tmp_path / "topology.yaml"
    file.write_text(SMALL.replace("    routes:\n", alone + "    routes:\n"), encoding="utf-8")
    assert load_topology(file).database("counting-db").backup is not None
