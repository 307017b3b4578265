"""The containers' estate is the lab's: addresses, configuration, topology, and the way in which Temporal is started."""

from __future__ import annotations

import os
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from activities.topology import load_topology
from lab import compose, config, containers
from lab.container_secrets import FILES, PASSWORDS, make
from lab.estate import topology
from lab.layout import THREE_REGIONS
from lab.model import Lab, Node
from lab.programs import temporal_options
from lab.secrets import KEY_NAME
from schemas.topology import Topology

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / compose.FILE).read_text(encoding="utf-8"))["services"]
DECLARED = load_topology(ROOT / compose.TOPOLOGY)
SERVICE = DECLARED.services[0]


def address(service: str) -> str:
    found: str = SERVICES[service]["networks"]["estate"]["ipv4_address"]
    return found


def composed() -> Lab:
    """The estate from what docker-compose.yml and its topology say, and from nothing else."""
    ports = {member.name: member.port for member in SERVICE.members}
    ports |= {pooler.name: pooler.port for pooler in SERVICE.gates()}
    ports |= {server.partition(":")[0]: int(server.partition(":")[2]) for server in DECLARED.zone.servers}
    ports |= {"temporal": int(SERVICES["configuration"]["environment"]["TEMPORAL_ADDRESS"].partition(":")[2])}
    nodes = [
        Node(
            name=plan.name,
            kind=plan.kind,
            role=plan.role,
            region=plan.region,
            upstream=plan.upstream,
            address=address(plan.name) + (f":{ports[plan.name]}" if plan.name in ports else ""),
        )
        for plan in THREE_REGIONS.planned(["database"])
        if plan.kind not in containers.WITHOUT
    ]
    subnet = yaml.safe_load((ROOT / compose.FILE).read_text(encoding="utf-8"))["networks"]["estate"]["ipam"]["config"][
        0
    ]
    network, _, rest = subnet["subnet"].partition(".0.0/")
    assert rest == "16"
    return containers.estate().model_copy(update={"nodes": nodes, "network": network})


def test_what_containers_mount_is_what_the_lab_renders_with_their_values(tmp_path: Path) -> None:
    assert containers.main(["configuration", str(tmp_path)]) == 0
    written = {str(file.relative_to(tmp_path)): file.read_text() for file in tmp_path.rglob("*") if file.is_file()}
    assert written == {
        **config.files(composed()),
        "objects.sql": config.objects_sql(),
        "lifeboat.sql": config.lifeboat_sql(),
    }
    assert len(written) == 6 * 3 + 2 * 2 + 2 + 2


def test_every_node_of_the_lab_is_a_service_with_the_labs_profile() -> None:
    names = {plan.name for plan in THREE_REGIONS.planned(["database"]) if plan.kind not in containers.WITHOUT}
    assert names == set(SERVICES) - set(compose.ONCE)
    assert all(service["profiles"] == ["database"] for service in SERVICES.values())


def test_the_topology_is_the_labs_but_for_node_control() -> None:
    def plain(found: Topology) -> dict[str, Any]:
        text = found.model_dump(mode="json", exclude_none=True)
        for member in text["services"][0]["members"]:
            member.pop("control", None)
            member.pop("data", None)
        for route in text["services"][0]["routes"]:
            # Lifeboat reaches a service by its name, and the lab's poolers by their addresses.
            if route["kind"] == "pgbouncer":
                route["host"] = address(route["name"])
        text["zone"]["servers"] = [
            f"{address(host)}:{port}" if host in SERVICES else f"{host}:{port}"
            for host, _, port in (server.partition(":") for server in text["zone"]["servers"])
        ]
        return text

    assert plain(DECLARED) == plain(topology(composed()))
    assert all(member.control is None for member in SERVICE.members)


def test_a_healthcheck_asks_the_node_at_its_own_address() -> None:
    for node in composed().of_kind("postgresql", "pgbouncer", "knot"):
        test = " ".join(SERVICES[node.name]["healthcheck"]["test"])
        assert f"{node.host} -p {node.port}" in test, node.name


def test_temporal_is_started_as_in_the_lab() -> None:
    flags = [part for option in SERVICES["temporal"]["command"] for part in option.split("=", 1)]
    assert flags[-len(temporal_options()) :] == temporal_options()


def test_each_container_sees_only_the_secrets_that_it_needs() -> None:
    seen = {name: set(service.get("secrets", [])) for name, service in SERVICES.items()}
    passwords = {"lifeboat", "lifeboat_probe", "tsig"}
    workers = {f"worker-{region}" for region in THREE_REGIONS.regions}
    assert all(seen[name] == passwords for name in workers)
    assert not any(seen[name] & passwords for name in set(SERVICES) - workers)
    assert seen["configuration"] == seen["watch"] == seen["temporal"] == set()
    referred = {SERVICE.access.password, SERVICE.access.probe_password, DECLARED.zone.key_secret}
    assert referred == {f"file:/run/secrets/{name}" for name in passwords}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


def make_secrets(folder: Path) -> subprocess.CompletedProcess[str]:
    """As one does who has an engine and a Python, and has not set Lifeboat up."""
    environment = {"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [ROOT / "scripts/compose_secrets", folder]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_the_script_makes_every_secret_that_is_mounted(folder: Path) -> None:
    assert make_secrets(folder).returncode == 0
    declared = yaml.safe_load((ROOT / compose.FILE).read_text(encoding="utf-8"))["secrets"]
    assert {Path(each["file"]) for each in declared.values()} <= {Path("containers/secrets") / name for name in FILES}
    assert {file.name for file in folder.iterdir()} == set(FILES)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o644 for file in folder.iterdir())
    assert KEY_NAME in (folder / "key.conf").read_text()


def test_made_once_they_stay(folder: Path) -> None:
    assert make(folder)
    before = {file.name: file.read_text() for file in folder.iterdir()}
    again = make_secrets(folder)
    assert (again.returncode, again.stdout) == (0, f"secrets: {len(FILES)} files in {folder}, as before\n")
    assert {file.name: file.read_text() for file in folder.iterdir()} == before


def test_a_part_of_them_is_not_completed(folder: Path) -> None:
    """New ones would not fit the servers that the others are in."""
    make(folder)
    (folder / "roles.sql").unlink()
    refused = make_secrets(folder)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert not (folder / "roles.sql").exists()


def test_no_password_is_in_what_only_needs_its_verifier(folder: Path) -> None:
    make(folder)
    for name in ("roles.sql", "users.txt"):
        text = (folder / name).read_text()
        assert "SCRAM-SHA-256$" in text
        assert not any((folder / each).read_text() in text for each in PASSWORDS)


def test_git_and_the_images_leave_the_secrets_out() -> None:
    assert "containers/secrets/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert "*" in lines
    assert not any("containers/secrets".startswith(name) for name in kept)
    assert not any(path.startswith(("containers/secrets", ".")) for path in kept)


def test_the_image_holds_every_package_and_what_is_copied_is_in_the_context() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for name in {package.partition(".")[0] for package in packages}:
        assert f"COPY {name} {name}\n" in dockerfile
    copied = [line.split() for line in dockerfile.splitlines() if line.startswith("COPY") and "--from" not in line]
    assert {source for words in copied for source in words[1:-1] if not source.startswith("--")} == kept


def test_the_image_has_the_labs_temporal() -> None:
    (line,) = [
        line
        for line in (ROOT / "scripts/lib/temporal.sh").read_text().splitlines()
        if line.startswith("TEMPORAL_VERSION")
    ]
    assert f"temporal@{line.partition('=')[2]}\n" in (ROOT / "Dockerfile").read_text()
