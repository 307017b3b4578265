"""pytest, with its own verdict as exit code.

The interpreter can abort while it shuts down after a Temporal worker has run in it (exit 134 instead of pytest's),
so the process ends at once when pytest has.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib

import pytest


class Part:
    """`--part I/N`: one of N parts of what was chosen, the same one each time; `commit/N`: that of this commit's turn.

    The campaign takes longer than CI has. Whoever lands N changes has had all of it.
    """

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        parser.addoption("--part", metavar="I/N", type=self._which, help="run one of N parts of what is left")

    def pytest_report_header(self, config: pytest.Config) -> str | None:
        part: tuple[int, int] | None = config.getoption("part")
        return None if part is None else f"part {part[0]} of {part[1]} (the same again: --part {part[0]}/{part[1]})"

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        part: tuple[int, int] | None = config.getoption("part")
        if part is None:
            return
        others = [item for item in items if zlib.crc32(item.nodeid.encode()) % part[1] != part[0]]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]

    @staticmethod
    def _which(text: str) -> tuple[int, int]:
        which, _, of = text.partition("/")
        count = int(of)
        if which != "commit":
            if not 0 <= int(which) < count:
                raise ValueError(text)
            return int(which), count
        commits = subprocess.run(
            ["git", "rev-list", "--count", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
        return int(commits or 0) % count, count


if __name__ == "__main__":
    code = int(pytest.main(sys.argv[1:], plugins=[Part()]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
