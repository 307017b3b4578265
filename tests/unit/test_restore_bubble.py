"""A copy's server in a network of its own, and who fetches WAL for it outside; a copy that goes back by its files."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from activities.jobs import Answers
from tests.unit.restore_hosts import SCRIPT, TARGET, Host, ended

NAME = "000000010000000000000007"
POSTGRES = """#!/bin/sh
cd "$2" && echo $$ > postmaster.pid && touch "$ROOT/was-started"
[ ! -e "$ROOT/loopback" ] || ip link set lo up
while read -r name to < "$ROOT/order"; do
  [ "$name" != end ] || exit
  setsid sh ../fetch "$name" "$to"
  echo $? > "$ROOT/exited"
done
"""
"""A server that only recovers: whatever file is ordered."""
namespaces = pytest.mark.skipif(
    subprocess.run(["unshare", "--user", "--map-current-user", "--net", "true"], check=False).returncode != 0,
    reason="this machine lets nobody make network namespaces",
)


def until(what: str, seen: Callable[[], object], limit: float = 10.0) -> None:
    end = time.monotonic() + limit
    while not seen():
        assert time.monotonic() < end, f"not within {limit} s: {what}"
        time.sleep(0.01)


class Server:
    """The copy's server, which recovers what it is told."""

    def __init__(self, host: Host) -> None:
        self.host = host
        for name in ("order", "exited"):
            os.mkfifo(host.root / name)
        host.program("postgres", POSTGRES)

    def start(self) -> Answers:
        self.host.ask("restore", "F1")
        (self.host.keep / "wal").mkdir(exist_ok=True)
        return self.host.ask("recover", "w1", "", TARGET)

    def order(self, name: str = NAME, to: str = "got") -> None:
        (self.host.root / "order").write_text(f"{name} {to}\n", encoding="ascii")

    def exited(self) -> int:
        return int((self.host.root / "exited").read_text(encoding="ascii"))

    def fetch(self, name: str = NAME, to: str = "got") -> int:
        """restore_command's exit code. `to` is below the data, as the server gives it."""
        self.order(name, to)
        return self.exited()

    def fetchers(self) -> list[int]:
        """Who works where what was fetched comes in."""
        found = []
        for each in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (each / "cwd").readlink() == self.host.keep / "coming":
                    found.append(int(each.name))
        return sorted(found)

    def last(self) -> list[str]:
        return (self.host.keep / "fetched").read_text(encoding="ascii").splitlines()[-1].split()[1:]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(made.pid(), signal.SIGKILL)
    made.ask("remove")


@pytest.fixture
def server(host: Host) -> Server:
    return Server(host)


@namespaces
class TestNetwork:
    def test_it_has_none_and_says_so(self, host: Host, server: Server) -> None:
        assert server.start()["done"] == ["1"]
        mine, its = (os.readlink(f"/proc/{each}/ns/net") for each in ("self", host.pid()))
        assert mine != its
        answers = host.ask("look")
        assert answers["network"] == ["own"]
        assert not {"reaches", "shared"} & answers.keys()

    def test_a_loopback_that_is_up_is_told(self, host: Host, server: Server) -> None:
        (host.root / "loopback").touch()
        server.start()
        until("its loopback is up", lambda: "reaches" in host.ask("look"))
        assert "has 127.0.0.1" in host.ask("look")["reaches"]

    def test_by_its_configuration_alone(self, host: Host, server: Server) -> None:
        host.isolation = "configuration"
        server.start()
        assert os.readlink("/proc/self/ns/net") == os.readlink(f"/proc/{host.pid()}/ns/net")
        answers = host.ask("look")
        assert answers["network"] == ["shared"]
        assert answers["shared"] == ["isolation: configuration is declared"]
        assert server.fetchers() == []

    def test_one_that_is_handed_over_has_its_hosts(self, host: Host, server: Server) -> None:
        """In the bubble nobody could reach it."""
        host.program("pg_ctl", '#!/bin/sh\nread -r pid < "$2/postmaster.pid"; kill -9 "$pid"; rm "$2/postmaster.pid"\n')
        server.start()
        host.fails(1)
        assert server.fetch() == 1
        assert host.ask("hand_over", "127.0.0.1", "7001", "127.0.0.0/8")["done"] == ["1"]
        answers = host.ask("look")
        assert (answers["network"], answers["shared"]) == (["shared"], ["readers come to it"])
        assert server.fetchers() == []
        assert server.fetch() == 1


class TestWithoutNamespaces:
    @pytest.fixture(autouse=True)
    def none(self, host: Host) -> None:
        host.program("unshare", "#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n")

    WHY = "no network namespace can be had: unshare: unshare failed: Operation not permitted"

    def test_it_runs_as_it_can_and_says_why(self, host: Host, server: Server) -> None:
        assert host.ask("room")["shared"] == [self.WHY]
        assert server.start()["done"] == ["1"]
        assert host.ask("look")["shared"] == [self.WHY]
        host.fails(1)
        assert server.fetch() == 1

    def test_where_one_is_demanded_nothing_is_started(self, host: Host, server: Server) -> None:
        host.isolation = "namespace"
        assert host.ask("room")["shared"] == [self.WHY]
        assert server.start() == {"error": [self.WHY]}
        assert not (host.root / "was-started").exists()


@namespaces
class TestFetching:
    """restore_command through the bubble's wall: 0, 1 only for what the archive says it has not, else 255."""

    @pytest.fixture(autouse=True)
    def started(self, host: Host, server: Server) -> None:
        server.start()
        (host.root / "wal").mkdir()

    def hold(self, host: Host) -> Callable[[], bool]:
        """pgBackRest, once it is asked, does not answer; whether it was."""
        told = 'echo $$ > "$ROOT/holds" && mv "$ROOT/holds" "$ROOT/held"'
        host.program("pgbackrest", f"#!/bin/sh\n{told}; exec sleep 60\n")
        return lambda: (host.root / "held").exists()

    @pytest.mark.parametrize(
        ("code", "exits"), [(1, 1), (2, 255), (25, 255), (55, 255), (103, 255), (125, 255), (126, 255), (255, 255)]
    )
    def test_only_what_the_archive_has_not_is_not_there(
        self, host: Host, server: Server, code: int, exits: int
    ) -> None:
        host.fails(code)
        assert server.fetch() == exits
        assert server.last() == [NAME, str(code)]
        if exits == 255:
            assert f"ERROR: [0{code}]: something" in (host.keep / "refused").read_text(encoding="ascii")

    def test_files_that_are_there(self, host: Host, server: Server) -> None:
        for name in (NAME, NAME[:-1] + "8", "00000002.history"):
            (host.root / "wal" / name).write_text(name, encoding="ascii")
            assert server.fetch(name) == 0
            assert (host.data / "got").read_text(encoding="ascii") == name
            assert server.last() == [name, "0"]
        call = host.calls()[-1]
        assert call.endswith(f"spool={host.keep}/spool")
        assert f"--pg1-path={host.data}" in call
        assert list((host.keep / "coming").iterdir()) == []

    def test_what_was_fetched_to_be_read_is_not_fetched_again(self, host: Host, server: Server) -> None:
        (host.keep / "wal" / NAME).write_text("read", encoding="ascii")
        host.fails(1)
        assert server.fetch() == 0
        assert (host.data / "got").read_text(encoding="ascii") == "read"

    def test_what_can_not_be_put_there_is_not_absent(self, host: Host, server: Server) -> None:
        (host.root / "wal" / NAME).write_text("wal", encoding="ascii")
        assert server.fetch(to="no/such/folder") == 255
        assert server.last() == [NAME, "255"]

    def test_a_program_that_is_gone_or_was_killed(self, host: Host, server: Server) -> None:
        (host.root / "bin" / "pgbackrest").unlink()
        assert server.fetch() == 255
        host.program("pgbackrest", "#!/bin/sh\nkill -9 $$\n")
        assert server.fetch() == 255

    def test_a_name_that_is_no_files_is_never_asked_for(self, host: Host, server: Server) -> None:
        before = host.calls()
        for name in ("../../etc/passwd", "--help", ".", "$(touch${IFS}x)"):
            assert server.fetch(name) == 255
        assert host.calls() == before

    @pytest.mark.parametrize("when", ["before", "meanwhile"])
    def test_a_fetcher_that_died_is_no_end_of_the_archive(self, host: Host, server: Server, when: str) -> None:
        """Not even one that had begun to fetch: recovery ends, loudly, and is started again with another."""
        asked = self.hold(host)
        (fetcher,) = server.fetchers()
        if when == "meanwhile":
            server.order()
            until("it fetches", asked)
        os.kill(fetcher, signal.SIGKILL)
        assert (server.fetch() if when == "before" else server.exited()) == 255
        assert server.last() == [NAME, "255"]
        assert "has ended" in (host.keep / "refused").read_text(encoding="ascii")
        host.program("pgbackrest", "#!/bin/sh\nexit 1\n")
        assert server.fetch() == 255, "as long as the server lives, nobody comes in its place"
        (host.root / "order").write_text("end x\n", encoding="ascii")
        pid = host.pid()
        until("the server ends", lambda: ended(pid))
        server.start()
        assert fetcher not in server.fetchers()
        assert len(server.fetchers()) == 1, "what the killed one had begun has ended as well"
        assert server.fetch() == 1

    def test_one_that_does_not_answer_is_waited_for_no_longer_than_this(self, host: Host, server: Server) -> None:
        text = (host.keep / "fetch").read_text(encoding="ascii")
        assert " 1860 " in text
        (host.keep / "fetch").write_text(text.replace(" 1860 ", " 0.5 "), encoding="ascii")
        (fetcher,) = server.fetchers()
        os.kill(fetcher, signal.SIGSTOP)
        assert server.fetch() == 255
        os.kill(host.pid(), signal.SIGKILL)
        (host.data / "postmaster.pid").unlink()
        server.start()
        assert fetcher not in server.fetchers(), "a frozen one is ended too"
        host.fails(1)
        assert server.fetch() == 1

    def test_an_answer_that_came_too_late_is_not_the_next_ones(self, host: Host, server: Server) -> None:
        """The one who asked was ended meanwhile; PostgreSQL does so when it starts recovery anew after a crash."""
        asked = self.hold(host)
        server.order()
        until("it fetches", asked)
        children = subprocess.run(["pgrep", "-P", str(host.pid())], capture_output=True, text=True, check=True).stdout
        for child in children.split():
            os.killpg(int(child), signal.SIGKILL)
            left = ["pgrep", "--session", child]
            until("nobody else waits for the answer", lambda: subprocess.run(left, check=False).returncode == 1)  # noqa: B023
        assert server.exited() == 128 + signal.SIGKILL
        host.program("pgbackrest", "#!/bin/sh\nexit 1\n")
        os.kill(int((host.root / "held").read_text(encoding="ascii")), signal.SIGKILL)
        assert server.fetch("00000002.history") == 1
        assert server.fetch() == 1

    def test_it_ends_with_the_server(self, host: Host, server: Server) -> None:
        os.kill(host.pid(), signal.SIGKILL)
        until("the fetcher has ended", lambda: server.fetchers() == [])

    @pytest.mark.parametrize("verb", ["stop", "remove"])
    def test_it_ends_in_mid_fetch(self, host: Host, server: Server, verb: str) -> None:
        host.program("pg_ctl", '#!/bin/sh\nread -r pid < "$2/postmaster.pid"; kill -9 "$pid"; rm "$2/postmaster.pid"\n')
        asked = self.hold(host)
        server.order()
        until("it fetches", asked)
        assert host.ask(verb) == {"done": ["1"]}
        assert ended(int((host.root / "held").read_text(encoding="ascii")))
        assert server.fetchers() == []

    def test_the_same_target_again_leaves_it_alone(self, host: Host, server: Server) -> None:
        before = server.fetchers()
        assert host.ask("recover", "w1", "", TARGET)["done"] == ["1"]
        assert server.fetchers() == before
        host.fails(1)
        assert server.fetch() == 1


def test_the_scripts_own_limit_is_longer_than_pgbackrests() -> None:
    """Its protocol-timeout is 1,830 s by default (its manual)."""
    limit = next(line for line in SCRIPT.splitlines() if line.startswith("ANSWER_S="))
    assert int(limit.partition("=")[2]) > 1830


CP = """#!/bin/sh
for each in "$@"; do case $each in --reflink=*) ;; *) set -- "$@" "$each" ;; esac; shift; done
"""


class TestSnapshot:
    """Where the file system shares blocks and where it does not; that it does is another test's (a real xfs)."""

    @pytest.fixture(autouse=True)
    def restored(self, host: Host) -> None:
        host.ask("restore", "F1", "1")
        (host.data / "row").write_text("good", encoding="ascii")
        (host.keep / "fetched").write_text("1 A 0\n", encoding="ascii")

    def shares(self, host: Host) -> None:
        """As if it did."""
        host.program("cp", CP + 'exec /bin/cp "$@"\n')

    def spoil(self, host: Host) -> None:
        (host.data / "row").write_text("bad", encoding="ascii")
        (host.data / "more").touch()
        (host.keep / "fetched").write_text("1 A 0\n2 B 0\n", encoding="ascii")
        (host.keep / "wanted").write_text("later", encoding="ascii")

    def test_back_to_what_was_kept(self, host: Host) -> None:
        self.shares(host)
        for _ in range(2):
            assert host.ask("snapshot", "one moment") == {"done": ["1"]}
        for number in ("2", "3"):
            self.spoil(host)
            for _ in range(2):
                assert host.ask("roll_back", number) == {"done": ["1"]}
            assert (host.data / "row").read_text(encoding="ascii") == "good"
            assert not (host.data / "more").exists()
            assert not (host.keep / "wanted").exists()
            assert (host.keep / "fetched").read_text(encoding="ascii") == "1 A 0\n"
            assert (host.keep / "restored").read_text(encoding="ascii") == f"F1 {number}"

    def test_tablespaces_go_with_it(self, host: Host) -> None:
        self.shares(host)
        (host.keep / "spaces" / "16400").mkdir(parents=True)
        (host.keep / "spaces" / "16400" / "row").write_text("good", encoding="ascii")
        host.ask("snapshot", "m")
        (host.keep / "spaces" / "16400" / "row").write_text("bad", encoding="ascii")
        host.ask("roll_back", "2")
        assert (host.keep / "spaces" / "16400" / "row").read_text(encoding="ascii") == "good"

    def test_a_later_one_takes_its_place(self, host: Host) -> None:
        self.shares(host)
        host.ask("snapshot", "first")
        (host.data / "row").write_text("better", encoding="ascii")
        host.ask("snapshot", "second")
        self.spoil(host)
        host.ask("roll_back", "2")
        assert (host.data / "row").read_text(encoding="ascii") == "better"

    def test_one_that_was_broken_off_begins_anew(self, host: Host) -> None:
        self.shares(host)
        host.ask("snapshot", "m")
        self.spoil(host)
        host.program("cp", CP + "exit 1\n")
        assert host.ask("roll_back", "2") == {"error": ["the files of m can't be put back"]}
        assert host.ask("recover", "w", "", TARGET)["error"] == ["nothing is restored here"]
        self.shares(host)
        assert host.ask("roll_back", "2") == {"done": ["1"]}
        assert (host.data / "row").read_text(encoding="ascii") == "good"

    def test_what_could_not_be_kept_leaves_what_was(self, host: Host) -> None:
        """No room any more: the earlier one is good as well."""
        self.shares(host)
        host.ask("snapshot", "first")
        host.program(
            "cp", CP + 'case $* in *PG_VERSION*) exec /bin/cp "$@" ;; esac\necho "cp: No space left" >&2; exit 1\n'
        )
        assert host.ask("snapshot", "second") == {"none": ["cp: No space left"], "done": ["1"]}
        self.shares(host)
        self.spoil(host)
        assert host.ask("roll_back", "2") == {"done": ["1"]}

    def test_a_file_system_that_shares_no_blocks_says_so(self, host: Host) -> None:
        host.program("cp", "#!/bin/sh\necho 'cp: failed to clone: Operation not supported' >&2\nexit 1\n")
        host.ask("recover", "w", "", TARGET)
        pid = host.pid()
        assert host.ask("snapshot", "m") == {"none": ["cp: failed to clone: Operation not supported"], "done": ["1"]}
        assert host.pid() == pid, "it is stopped for nothing"
        assert host.ask("roll_back", "2") == {"none": ["no files are kept"], "done": ["1"]}
        assert (host.data / "row").exists()

    def test_another_backups_files_are_not_kept(self, host: Host) -> None:
        self.shares(host)
        host.ask("snapshot", "m")
        host.ask("restore", "F2", "2")
        assert host.ask("roll_back", "3") == {"none": ["no files are kept"], "done": ["1"]}

    def test_without_a_restore_there_is_nothing_to_keep(self, host: Host) -> None:
        (host.keep / "restored").unlink()
        assert host.ask("snapshot", "m") == {"error": ["nothing is restored here"]}
