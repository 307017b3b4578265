"""Whether docker-compose.yml can be used: the Compose specification's own parser, then what that does not look at.

`python -m lab.compose [--where-possible] [FOLDER]` checks the checkout, or a folder with its files; each problem is a
line, and exit is 1. Without a parser it exits 2, or goes on where that is asked for, but never in CI; it says so.
The parser (compose-go) refuses unknown keys and wrong types. That what is named exists, that images are pinned, and
that no secret is written down is looked at here. Nothing is pulled, built or started.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from activities.topology import load_topology
from lab.container_secrets import FILES
from lab.errors import LabError, MissingProgram
from lab.world import ROOT, SYSTEM_PATH, cache_folder
from schemas.failures import TopologyInvalid

FILE = "docker-compose.yml"
TOPOLOGY = "containers/topology.yaml"
VERSION = "v2.16.2"
"""As scripts/lib/compose.sh builds it."""
ONCE = ("configuration", "watch")
"""Services that end; every other one is long-lived and says how it is."""

_LIMIT_S = 20.0
_PINNED = re.compile(r"[^\s@]+(:[^\s:@/]*([0-9]+\.[0-9]+\.[0-9]+|[0-9]{8})[^\s:@/]*|@sha256:[0-9a-f]{64})")
"""A tag with a whole version or a date, or a digest: neither `latest`, nor a version that moves, nor none."""
_SECRET_NAME = re.compile(
    r"(?i)pass(word|wd|phrase)?$|secret|token|credential|(^|[_-])(api|access|private|tsig)?[_-]?key$"
)
_SECRET_TEXT = re.compile(
    r"(?i)[a-z][a-z0-9+.-]*://[^/\s:@]+:[^@\s]+@"  # a URL with a password
    r"|(^|[\s_-])(password|passwd|secret|token)[=:]\s*(?!/|file:|env:)\S"
    r"|SCRAM-SHA-256\$|-----BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}"
)


class ComposeInvalid(LabError):
    """docker-compose.yml can't be used; who changed it must correct what is named here."""


def find_parser() -> Path:
    """LIFEBOAT_COMPOSE_SPEC, else the one that set-up built; MissingProgram without either."""
    named = os.environ.get("LIFEBOAT_COMPOSE_SPEC")
    program = Path(named) if named else cache_folder() / "bin" / f"compose-spec-{VERSION}"
    if not os.access(program, os.X_OK):
        raise MissingProgram(f"{program}, the parser of Compose files, which takes Go")
    return program


def parse(folder: Path) -> dict[str, Any]:
    """The file as the specification's parser has it, every path absolute; ComposeInvalid says what it refuses."""
    done = subprocess.run(
        [str(find_parser()), "-format", "json", str(folder / FILE)],
        cwd=folder,
        env={"PATH": SYSTEM_PATH, "HOME": "/nonexistent"},  # no variable of the caller's is put into the file
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    # It warns of variables that are not set, and puts nothing in their place.
    if done.returncode != 0 or done.stderr:
        raise ComposeInvalid(done.stderr.strip() or f"the parser exited {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def problems(folder: Path) -> list[str]:
    """Everything that is wrong, a line each."""
    try:
        model = parse(folder)
    except ComposeInvalid as error:
        return [f"{FILE}: {line}" for line in error.detail.splitlines()]
    found = [f"{FILE}: {text}" for text in _of_model(model, folder)]
    found += [f"{file}: {text}" for file, text in _of_dockerfiles(model, folder)]
    try:
        load_topology(folder / TOPOLOGY)
    except TopologyInvalid as error:
        found += error.detail.splitlines()
    return found


def _of_model(model: Mapping[str, Any], folder: Path) -> Iterator[str]:
    for name, service in model["services"].items():
        place = f"services.{name}"
        yield from _image(place, service)
        yield from _mounts(place, service, model, folder)
        yield from _names(place, service, model)
        if name not in ONCE and not service.get("healthcheck", {}).get("test"):
            yield f"{place}: has no healthcheck; say how it is seen to serve"
        yield from _inlined(place, service)
    for kind in ("secrets", "configs"):
        for name, declared in model.get(kind, {}).items():
            file = Path(declared.get("file", "/"))
            if set(declared) - {"file", "name"} or folder / "containers" / "secrets" not in file.parents:
                yield f"{kind}.{name}: is no file in containers/secrets; write `file: ./containers/secrets/{name}`"
            elif kind == "secrets" and file.name not in FILES:
                yield f"{kind}.{name}: scripts/compose_secrets makes no {file.name}; one of: {', '.join(FILES)}"


def _image(place: str, service: Mapping[str, Any]) -> Iterator[str]:
    image = service.get("image")
    if image is None:
        yield f"{place}: has no image; name it with its version"
    elif not _PINNED.fullmatch(image):
        yield f"{place}.image: {image} is not pinned; give it the tag of one version"


def _mounts(place: str, service: Mapping[str, Any], model: Mapping[str, Any], folder: Path) -> Iterator[str]:
    for index, mount in enumerate(service.get("volumes", [])):
        source = mount.get("source", "")
        if mount["type"] == "bind" and not Path(source).exists():
            yield f"{place}.volumes.{index}: {_short(source, folder)} does not exist"
        if mount["type"] == "bind" and folder not in Path(source).parents:
            yield f"{place}.volumes.{index}: {source} is a path of one machine; mount what is in the checkout"
        if mount["type"] == "volume" and source not in model.get("volumes", {}):
            yield f"{place}.volumes.{index}: {source or 'a volume without a name'} is not declared under `volumes`"


def _names(place: str, service: Mapping[str, Any], model: Mapping[str, Any]) -> Iterator[str]:
    """References that only the making of a project looks up, which the parser's command leaves out."""
    for kind, named in (
        ("services", service.get("depends_on", {})),
        ("networks", service.get("networks", {})),
        ("secrets", [each["source"] for each in service.get("secrets", [])]),
        ("configs", [each["source"] for each in service.get("configs", [])]),
    ):
        for name in named:
            if name not in (model.get(kind) or {}):
                yield f"{place}: {name} is not declared under `{kind}`"


def _inlined(place: str, value: Any, key: str = "") -> Iterator[str]:
    """Secrets in the place of a value. A path, and a reference of a topology's kind, is none."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            if name != "secrets":
                yield from _inlined(f"{place}.{name}", each, name)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _inlined(f"{place}.{index}", each, key)
    elif isinstance(value, str):
        reference = value.startswith(("/", "./", "file:", "env:")) or not value
        if (_SECRET_NAME.search(key) and not reference) or _SECRET_TEXT.search(value):
            yield f"{place}: holds a secret, it seems; mount it as a file under `secrets`"


def _of_dockerfiles(model: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    wanted: dict[tuple[Path, Path], set[str]] = {}
    for name, service in model["services"].items():
        if build := service.get("build"):
            context = Path(build["context"])
            wanted.setdefault((context, context / build["dockerfile"]), set()).add(build.get("target", ""))
            if not context.is_dir():
                yield FILE, f"services.{name}.build.context: {_short(str(context), folder)} does not exist"
    for (context, file), targets in wanted.items():
        if file.is_file():
            yield from ((_short(str(file), folder), text) for text in dockerfile_problems(file, context, targets))
        elif context.is_dir():
            yield FILE, f"build.dockerfile: {_short(str(file), folder)} does not exist"


def dockerfile_problems(file: Path, context: Path, targets: set[str]) -> Iterator[str]:
    """Bases that are not pinned, sources that do not exist, stages that run as root, and secrets."""
    stages: dict[str, str] = {}
    stage = ""
    for line, words in _instructions(file.read_text(encoding="utf-8")):
        match words[0].upper(), [word for word in words[1:] if not word.startswith("--")]:
            case "FROM", [base, *rest]:
                stage = rest[1] if len(rest) == 2 else ""
                if base not in stages and not _PINNED.fullmatch(base):
                    yield f"line {line}: {base} is not pinned; give it the tag of one version"
                stages[stage] = stages.get(base, "root")
            case "USER", [user, *_]:
                stages[stage] = user
            case (("COPY" | "ADD"), [*sources, _]) if not any(word.startswith("--from=") for word in words):
                for source in sources:
                    if not (context / source).exists():
                        yield f"line {line}: {source} does not exist"
            case (("ENV" | "ARG"), values):
                for name, _, value in (each.partition("=") for each in values):
                    yield from (f"line {line}: {name} {text}" for text in _secret_variable(name, value))
    for target in sorted(targets):
        if target not in stages:
            yield f"has no stage `{target}`, which {FILE} builds"
        elif stages[target].partition(":")[0] in ("root", "0"):
            yield f"stage `{target}` runs as root; end it with a USER without rights"


def _secret_variable(name: str, value: str) -> Iterator[str]:
    if _SECRET_NAME.search(name) or _SECRET_TEXT.search(value):
        yield "would keep a secret in the image; mount it as a file where the container runs"


def _instructions(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each instruction with the number of its first line; continued lines are joined."""
    pending, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not (line.strip() or pending):
            continue
        first = first if pending else number
        pending += line.removesuffix("\\") + " "
        if not line.endswith("\\"):
            yield first, pending.split()
            pending = ""


def _short(path: str, folder: Path) -> str:
    return path.removeprefix(f"{folder}/")


def main(argv: Sequence[str] | None = None) -> int:
    """0 when all is well, 1 with the problems on stderr, 2 without a parser or for bad arguments."""
    parser = argparse.ArgumentParser(prog="lab.compose", description="Whether docker-compose.yml can be used.")
    parser.add_argument("--where-possible", action="store_true", help="go on without a parser, but not in CI")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT)
    given = parser.parse_args(argv)
    try:
        found = problems(given.folder.resolve())
    except MissingProgram as error:
        print(f"{FILE} is not checked: {error}", file=sys.stderr)
        return 0 if given.where_possible and "CI" not in os.environ else 2
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print(f"{FILE} can be used: parsed by compose-go {VERSION}; what it mounts and builds is there")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
