"""The scripts of set-up, as far as they go without changing the machine."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_what_runs_sees_no_profile_key_or_proxy_of_its_caller() -> None:
    hostile = {
        "TEMPORAL_ADDRESS": "production.example.com:7233",
        "AWS_SECRET_ACCESS_KEY": "x",
        "PGHOST": "production.example.com",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://production.example.com:4318",
        "https_proxy": "proxy.example.com",
        "ALL_PROXY": "proxy.example.com",
    }
    seen = run("scripts/scrubbed", "env", **hostile, KEPT="yes").stdout
    assert "KEPT=yes" in seen
    assert "example.com" not in seen
    assert "AWS_" not in seen


def test_scrubbed_keeps_the_commands_exit_code() -> None:
    assert run("scripts/scrubbed", "sh", "-c", "exit 3").returncode == 3


@pytest.mark.parametrize("script", [*sorted(ROOT.glob("scripts/lib/*.sh")), ROOT / "scripts/setup", ROOT / ".ci/run"])
def test_a_script_is_well_formed(script: Path) -> None:
    checked = run("bash", "-n", str(script))
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_with_hashes_and_without_an_address(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    requirements = text.replace("\\\n", " ").splitlines()
    pinned = [line for line in requirements if line and not line.lstrip().startswith("#")]
    assert pinned
    for line in pinned:
        assert re.match(r"^[A-Za-z0-9._-]+(\[[a-z,]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line
    assert "://" not in text


def test_what_tests_use_is_what_users_get() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([A-Za-z0-9._\[\]-]+==\S+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))

    assert pins("requirements.txt") <= pins("requirements-dev.txt")


def test_another_system_than_debians_is_refused_in_one_line(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text("ID=fedora\n", encoding="utf-8")
    script = f'die() {{ echo "setup: $*" >&2; exit 1; }}; . scripts/lib/debian.sh; OS_RELEASE={release} require_debian'
    refused = run("bash", "-c", script)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "fedora" in refused.stderr


def test_another_checkouts_environment_is_not_emptied_through_a_link(tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    (others / "pyvenv.cfg").write_text("home = elsewhere\n", encoding="utf-8")
    (tmp_path / ".venv").symlink_to(others)
    library = ROOT / "scripts/lib/python.sh"
    die = f'die() {{ echo "$*" >&2; exit 1; }}; cd {tmp_path} && . {library} && make_environment'
    made = run("bash", "-euc", die)
    assert made.returncode == 1
    assert made.stderr == f".venv is a link to {others}; remove the link (rm .venv), then try again\n"
    assert (others / "pyvenv.cfg").exists()
