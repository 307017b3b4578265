"""Its configuration: one ini file a service, the same on every member and on the restore host but for `[server]`."""

from __future__ import annotations

import configparser
import os
from dataclasses import dataclass, field

from archiver.errors import Unusable

KNOWN = {
    "archive": {
        *("stanza", "bucket", "prefix", "region", "endpoint", "ca", "credentials", "profile", "addressing"),
        *("conditional", "timeout", "lock_path", "processes", "compress_level"),
    },
    "server": {"bin", "socket", "port", "user", "wal_timeout"},
    "retention": {"keep_fulls", "keep_days", "archive_class", "keep_archived_days"},
    "thaw": {"tier", "days", "poll"},
}
TIERS = ("Bulk", "Standard", "Expedited")
CLASSES = ("GLACIER", "DEEP_ARCHIVE")


@dataclass(frozen=True)
class Server:
    """Where backups are taken from: a server on this machine, by its Unix socket."""

    bin: str = ""
    """The folder of PostgreSQL's programs; where it is left out, PATH."""
    socket: str = "/var/run/postgresql"
    port: int = 5432
    user: str = "postgres"
    wal_timeout_s: float = 120.0
    """For how long a backup waits for its WAL while none is archived."""


@dataclass(frozen=True)
class Thaw:
    """How objects are had back from an archive class."""

    tier: str = "Standard"
    days: int = 7
    """For how long they can be read then."""
    poll_s: float = 60.0


@dataclass(frozen=True)
class Limits:
    """What is kept. What is kept no longer goes to `archive_class`, or where none is named, goes."""

    keep_fulls: int = 0
    """The newest so many, 0: all of them;"""
    keep_days: float = 0.0
    """and those that are younger, with the newest that is not: a moment is recovered from a backup before it."""
    archive_class: str = ""
    keep_archived_days: float = 0.0
    """What is older goes from there as well; 0: never."""


@dataclass(frozen=True)
class Config:
    path: str
    stanza: str
    bucket: str
    region: str
    prefix: str = ""
    """`` or with a slash at its end."""
    endpoint: str | None = None
    ca: str | None = None
    credentials: str | None = None
    """A file as AWS's own tools have it; without it, their usual chain (environment, profile, the instance's role)."""
    profile: str = "default"
    """Of that file; or where none is named, of AWS's own."""
    addressing: str = "auto"
    conditional: bool = True
    """Whether the store knows `If-None-Match`, by which nothing is overwritten."""
    timeout_s: float = 60.0
    """Of archive-push and archive-get, each as a whole."""
    lock_path: str = "/tmp/lifeboat-archive"
    processes: int = 2
    compress_level: int = 1
    """gzip's, of base backups; 0: not at all."""
    server: Server = field(default_factory=Server)
    limits: Limits = field(default_factory=Limits)
    thaw: Thaw = field(default_factory=Thaw)

    def where(self, key: str) -> str:
        """An object as a person names it."""
        return f"s3://{self.bucket}/{self.prefix}{key}"


def read_config(path: str) -> Config:
    """Unusable names the file, the key, and what would be right."""
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(" #", " ;"))
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, ValueError, configparser.Error) as error:
        raise Unusable(f"{path} can't be read: {error}; its owner must mend it") from error
    for section in parser.sections():
        unknown = set(parser[section]) - KNOWN.get(section, set())
        if section not in KNOWN or unknown:
            what = f"[{section}] {min(unknown)}" if section in KNOWN else f"[{section}]"
            there = ", ".join(sorted(KNOWN.get(section, KNOWN)))
            raise Unusable(f"{path}: {what} is nothing that is known; there is: {there}")
    return _Reader(path, parser).config()


class _Reader:
    def __init__(self, path: str, parser: configparser.ConfigParser) -> None:
        self.path, self.parser = path, parser

    def config(self) -> Config:
        prefix = self.text("archive", "prefix").strip("/")
        return Config(
            path=self.path,
            stanza=self.needed("stanza"),
            bucket=self.needed("bucket"),
            region=self.needed("region"),
            prefix=f"{prefix}/" if prefix else "",
            endpoint=self.text("archive", "endpoint") or None,
            ca=self.text("archive", "ca") or None,
            credentials=self.text("archive", "credentials") or None,
            profile=self.text("archive", "profile", "default"),
            addressing=self.chosen("archive", "addressing", ("auto", "path", "virtual"), "auto"),
            conditional=self.chosen("archive", "conditional", ("yes", "no"), "yes") == "yes",
            timeout_s=self.number("archive", "timeout", 60.0, least=1.0),
            lock_path=self.text("archive", "lock_path", "/tmp/lifeboat-archive"),
            processes=int(self.number("archive", "processes", 2, least=1)),
            compress_level=int(self.number("archive", "compress_level", 1)),
            server=Server(
                bin=self.text("server", "bin"),
                socket=self.text("server", "socket", "/var/run/postgresql"),
                port=int(self.number("server", "port", 5432)),
                user=self.text("server", "user", "postgres"),
                wal_timeout_s=self.number("server", "wal_timeout", 120.0, least=1.0),
            ),
            limits=Limits(
                keep_fulls=int(self.number("retention", "keep_fulls", 0)),
                keep_days=self.number("retention", "keep_days", 0.0),
                archive_class=self.chosen("retention", "archive_class", CLASSES, ""),
                keep_archived_days=self.number("retention", "keep_archived_days", 0.0),
            ),
            thaw=Thaw(
                tier=self.chosen("thaw", "tier", TIERS, "Standard"),
                days=int(self.number("thaw", "days", 7, least=1)),
                poll_s=self.number("thaw", "poll", 60.0, least=0.05),
            ),
        )

    def text(self, section: str, key: str, otherwise: str = "") -> str:
        return self.parser.get(section, key, fallback=otherwise)

    def needed(self, key: str) -> str:
        found = self.text("archive", key)
        if not found:
            raise Unusable(f"{self.path}: [archive] {key} is missing; its owner must name it")
        return found

    def number(self, section: str, key: str, otherwise: float, *, least: float = 0.0) -> float:
        told = self.text(section, key, str(otherwise))
        try:
            found = float(told)
        except ValueError:
            found = -1.0
        if found < least:
            raise Unusable(f"{self.path}: [{section}] {key} = {told} is no number from {least:g} on")
        return found

    def chosen(self, section: str, key: str, able: tuple[str, ...], otherwise: str) -> str:
        found = self.text(section, key, otherwise)
        if found not in able and found != otherwise:
            raise Unusable(f"{self.path}: [{section}] {key} = {found} is none of {', '.join(able)}")
        return found


def keys_of(config: Config) -> dict[str, str]:
    """The keys in the credentials file, which go before whatever the environment holds; none without a file."""
    if config.credentials is None:
        return {}
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with open(os.path.expanduser(config.credentials), encoding="utf-8") as file:
            parser.read_file(file)
        section = parser[config.profile]
        found = {name: section[name] for name in ("aws_access_key_id", "aws_secret_access_key")}
    except (OSError, KeyError, ValueError, configparser.Error) as error:
        why = f"no {error}" if isinstance(error, KeyError) else f"{error}"
        raise Unusable(f"{config.credentials}, profile {config.profile}: {why}; its owner must mend it") from error
    if token := section.get("aws_session_token"):
        found["aws_session_token"] = token
    return found
