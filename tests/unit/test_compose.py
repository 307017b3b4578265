"""docker-compose.yml can be used, and its check bites: on copies with one fault each."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import compose
from lab.errors import MissingProgram

ROOT = Path(__file__).parents[2]
SOURCES = ("schemas", "workflows", "activities", "archiver", "workers", "cli", "lab", "bench")
FILES = (
    "docker-compose.yml",
    "Dockerfile",
    ".dockerignore",
    "requirements.txt",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)

Problems = Callable[..., list[str]]


@pytest.fixture(autouse=True, scope="module")
def parser() -> None:
    """Only who has no Go goes without; continuous integration has it."""
    try:
        compose.find_parser()
    except MissingProgram as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))


@pytest.fixture
def problems(tmp_path: Path) -> Problems:
    """What the check finds in a copy in which each of `changes` (file, old, new) is made once."""

    def find(*changes: tuple[str, str, str], without: str = "") -> list[str]:
        for name in FILES:
            shutil.copy(ROOT / name, tmp_path / name)
        for name in SOURCES:
            (tmp_path / name).mkdir()
        shutil.copytree(ROOT / "containers", tmp_path / "containers", ignore=shutil.ignore_patterns("secrets"))
        for name, old, new in changes:
            text = (tmp_path / name).read_text(encoding="utf-8")
            assert old in text
            (tmp_path / name).write_text(text.replace(old, new, 1), encoding="utf-8")
        if without:
            (tmp_path / without).unlink()
        return compose.problems(tmp_path)

    return find


def test_the_checkouts_file_can_be_used() -> None:
    assert compose.problems(ROOT) == []


def test_a_copy_without_a_fault_can_be_used(problems: Problems) -> None:
    assert problems() == []


YML, DOCKERFILE = compose.FILE, "Dockerfile"


@pytest.mark.parametrize(
    ("file", "old", "new", "what"),
    [
        (YML, "healthcheck: { test", "healthchek: { test", "services.pg-east-1.healthchek"),
        (YML, "ipv4_address", "ipv4_adress", "additional properties 'ipv4_adress' not allowed"),
        (YML, "interval: 2s", "interval: [2s]", "healthcheck.interval must be a string"),
        (YML, "services:\n", "services:\n  - x\n", "yaml"),
        (YML, "command: [postgresql, pg-east-1]", "command: [postgresql, '${WHICH}']", "WHICH"),
        (YML, "./containers/topology.yaml", "./containers/topologie.yaml", "containers/topologie.yaml does not exist"),
        (YML, "./containers/topology.yaml", "/etc/topology.yaml", "/etc/topology.yaml is a path of one machine"),
        (YML, '"pg-east-1:/var', '"pg-north-1:/var', "pg-north-1 is not declared under `volumes`"),
        (YML, "context: ., target: servers", "context: ./servers, target: servers", "context: servers does not exist"),
        (YML, "target: servers", "target: server", "has no stage `server`"),
        (YML, "lifeboat-servers:0.1.0", "lifeboat-servers:latest", "services.knot-eu.image: localhost/lifeboat-serv"),
        (YML, "lifeboat-servers:0.1.0", "lifeboat-servers", "is not pinned"),
        (YML, "lifeboat-servers:0.1.0", "lifeboat-servers:15", "is not pinned"),
        (YML, "      pg-west-1: { cond", "      pg-west-9: { cond", "pg-west-9 is not declared under `services`"),
        (YML, "secrets: [key.conf]", "secrets: [kea.conf]", "kea.conf is not declared under `secrets`"),
        (YML, "healthcheck: { test", "x-healthcheck: { test", "pg-east-1: has no healthcheck"),
        (YML, "TEMPORAL_NAMESPACE: default", "PGPASSWORD: hunter2", "environment.PGPASSWORD: holds a secret"),
        (YML, "TEMPORAL_NAMESPACE: default", "DSN: 'postgresql://app:hunter2@x/y'", "environment.DSN: holds a secret"),
        (YML, "[watch, start, counting-db]", "[watch, --token=hunter2]", "watch.command.1: holds a secret"),
        (YML, "file: ./containers/secrets/lifeboat }", "environment: PW }", "secrets.lifeboat:"),
        (
            YML,
            "{ file: ./containers/secrets/tsig }",
            "{ file: ./containers/topology.yaml }",
            "secrets.tsig: is no file",
        ),
        (DOCKERFILE, "debian:bookworm-20251229-slim", "debian:bookworm-slim", "debian:bookworm-slim is not pinned"),
        (DOCKERFILE, "python:3.12.11-slim", "python:3.12-slim", "python:3.12-slim-bookworm is not pinned"),
        (DOCKERFILE, "COPY requirements.txt", "COPY requirement.txt", "requirement.txt does not exist"),
        (DOCKERFILE, "USER lifeboat", "USER root", "stage `servers` runs as root"),
        (DOCKERFILE, "ENV PYTHONUNBUFFERED=1", "ENV API_KEY=x", "API_KEY would keep a secret in the image"),
        (compose.TOPOLOGY, "home: pg-east-1", "home: pg-east-9", "services.0.home: pg-east-9 is not a member"),
    ],
)
def test_each_fault_is_found(problems: Problems, file: str, old: str, new: str, what: str) -> None:
    found = problems((file, old, new))
    assert found
    assert any(what in problem for problem in found), found


@pytest.mark.parametrize("missing", ["containers/topology.yaml", "containers/start", "Dockerfile"])
def test_a_missing_file_is_found(problems: Problems, missing: str) -> None:
    assert any(Path(missing).name in problem for problem in problems(without=missing))


def test_a_digest_pins_as_well(problems: Problems) -> None:
    assert problems((DOCKERFILE, "python:3.12.11-slim-bookworm", f"python@sha256:{'0' * 64}")) == []


def test_the_command_says_each_problem_and_exits_1(problems: Problems, tmp_path: Path) -> None:
    problems((YML, "ipv4_address", "ipv4_adress"))
    done = command(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("docker-compose.yml: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "code"),
    [((), {}, 2), (("--where-possible",), {}, 0), (("--where-possible",), {"CI": "true"}, 2)],
)
def test_without_a_parser_it_is_said(arguments: tuple[str, ...], environment: dict[str, str], code: int) -> None:
    done = command(*arguments, LIFEBOAT_COMPOSE_SPEC="/nonexistent", **environment)
    assert done.returncode == code
    assert "docker-compose.yml is not checked" in done.stderr


def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        [ROOT / ".venv/bin/python", "-m", "lab.compose", *arguments],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_set_up_builds_the_version_that_is_looked_for() -> None:
    assert f"COMPOSE_SPEC_VERSION={compose.VERSION}\n" in (ROOT / "scripts/lib/compose.sh").read_text(encoding="utf-8")
