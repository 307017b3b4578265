"""pytest, with its own verdict as exit code.

The interpreter can abort while it shuts down after a Temporal worker has run in it (exit 134 instead of pytest's),
so the process ends at once when pytest has.
"""

from __future__ import annotations

import os
import sys

import pytest

if __name__ == "__main__":
    code = int(pytest.main(sys.argv[1:]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
