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


class Half:
    """`--half 0|1|commit`: half of what was chosen, the same one each time; `commit`: that of this commit's turn.

    The campaign takes longer than CI has. Whoever lands two changes has had both halves of it.
    """

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        parser.addoption("--half", choices=("0", "1", "commit"), help="run half of the tests that are left")

    def pytest_report_header(self, config: pytest.Config) -> str | None:
        half = self._of(config)
        return None if half is None else f"half {half} (the same again: --half {half})"

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        half = self._of(config)
        if half is None:
            return
        others = [item for item in items if zlib.crc32(item.nodeid.encode()) % 2 != half]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]

    @staticmethod
    def _of(config: pytest.Config) -> int | None:
        given: str | None = config.getoption("half")
        if given != "commit":
            return None if given is None else int(given)
        count = subprocess.run(
            ["git", "rev-list", "--count", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
        return int(count or 0) % 2


if __name__ == "__main__":
    code = int(pytest.main(sys.argv[1:], plugins=[Half()]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
