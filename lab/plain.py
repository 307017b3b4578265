"""The lab's backups in the plain layout, by lifeboat-archive: `--with plain`. All else of the profile is the same.

The servers' user may not be able to read the checkout and its environment, so that the program is installed into the
lab's folder, with what it imports, for the system's own Python.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

from lab.config import template
from lab.errors import LabError, MissingProgram
from lab.layout import SERVICE, STORAGE
from lab.model import Lab, Node
from lab.owner import write_private
from lab.secrets import SUPERUSER
from lab.storage import BUCKET
from lab.world import ROOT, SYSTEM_PATH

EXTRA = "plain"
PREFIX = "plain"
"""Below which the bucket holds it."""
_LIBRARIES = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six")
_DATA = ("s3", "endpoints.json", "partitions.json", "sdk-default-configuration.json", "_retry.json")
"""Of botocore's descriptions of services, which are twenty times as large as itself."""
_LAUNCHER = """\
#!/bin/sh
PYTHONPATH={folder} exec {python} -s -P -m archiver "$@"
"""


def is_plain(lab: Lab) -> bool:
    return EXTRA in lab.extras


def program(lab: Lab) -> Path:
    return lab.paths.nodes / "archiver" / "lifeboat-archive"


def install(folder: Path) -> Path:
    """The program, and all that it imports, for whoever may pass into `folder`; its path."""
    python = _python()
    folder.mkdir(mode=0o755)
    shutil.copytree(ROOT / "archiver", folder / "archiver", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "schemas").mkdir()
    for name in ("__init__.py", "wal.py"):
        shutil.copy2(ROOT / "schemas" / name, folder / "schemas" / name)
    for name in _LIBRARIES:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise LabError(f"{name} is not installed, which lifeboat-archive imports")
        origin = Path(found.origin)
        if origin.name != "__init__.py":
            shutil.copy2(origin, folder / origin.name)
            continue
        shutil.copytree(origin.parent, folder / name, ignore=_left_out)
    made = folder / "lifeboat-archive"
    made.write_text(_LAUNCHER.format(folder=folder, python=python), encoding="utf-8")
    # As they are, wherever the caller's mask is.
    for each in folder.rglob("*"):
        each.chmod(0o755 if each.is_dir() else 0o644)
    made.chmod(0o755)
    folder.chmod(0o755)
    # A WAL file's own program would compile them each time: it may not write here.
    subprocess.run([python, "-m", "compileall", "-q", "-j", "2", str(folder)], check=True, timeout=120, env={})
    return made


def _left_out(folder: str, names: list[str]) -> list[str]:
    at = Path(folder)
    if at.name == "data" and at.parent.name == "botocore":
        return [name for name in names if name not in _DATA]
    return [name for name in names if name in ("__pycache__", "examples")]


def _python() -> str:
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        found = shutil.which(name, path=SYSTEM_PATH)
        if found is not None:
            asked = [found, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
            if subprocess.run(asked, check=False, timeout=20, env={}).returncode == 0:
                return found
    raise MissingProgram("Python 3.11 or newer of the system's own, for lifeboat-archive")


def command(lab: Lab, name: str, *words: str) -> list[str]:
    """As it is run on a node, as the servers' user."""
    return [str(program(lab)), f"--config={lab.paths.archive_ini(name)}", f"--stanza={SERVICE}", *words]


def archive_ini(lab: Lab, name: str, server: Node | None) -> str:
    storage = lab.node(STORAGE)
    text = template("archive.ini").format(
        stanza=SERVICE,
        bucket=BUCKET,
        prefix=PREFIX,
        region=storage.region,
        endpoint=f"https://{storage.address}",
        authority=lab.paths.authority,
        credentials=lab.paths.node(name) / "archive.credentials",
        lock=lab.paths.node(name) / "archive",
    )
    if server is None:
        return text
    told = {"bin": lab.pg_bin, "socket": lab.paths.node(name), "port": server.port, "user": SUPERUSER}
    return text + "\n[server]\n" + "".join(f"{key} = {value}\n" for key, value in told.items())


def write_archive(lab: Lab, name: str, server: Node | None = None) -> None:
    """A node's configuration, with the store's key beside it, as at the beginning: nothing is under way."""
    folder = lab.paths.node(name)
    shutil.rmtree(folder / "archive", ignore_errors=True)
    write_private(lab.paths.archive_ini(name), archive_ini(lab, name, server), server=True)
    keys = ("[default]", f"aws_access_key_id = {lab.secret('s3-key')}")
    text = "\n".join((*keys, f"aws_secret_access_key = {lab.secret('s3-secret')}")) + "\n"
    write_private(folder / "archive.credentials", text, server=True)


def declared(lab: Lab, home: str) -> dict[str, Any]:
    """`repository` of the service's backups in the lab's topology."""
    return {
        "kind": "plain",
        "stanza": SERVICE,
        "program": str(program(lab)),
        "config": str(lab.paths.archive_ini(home)),
        "retention": {"keep_fulls": 2},
    }
