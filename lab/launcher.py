"""Start supervisord in the background as a subreaper: `python -P lab/launcher.py CONF`, without the checkout's path.

Where PID 1 doesn't reap, a killed postmaster's backends would stay zombies for ever, and its own zombie makes its
restart fail on the lock file; a subreaper inherits them (prctl(2), PR_SET_CHILD_SUBREAPER; not kept over a fork).
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """OSError when the kernel refuses (Linux before 3.4)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def main() -> None:
    """Return in the parent; in the child, be supervisord in a session of its own."""
    conf = sys.argv[1]
    if os.fork():
        os._exit(0)
    os.setsid()
    become_subreaper()
    from supervisor import supervisord

    supervisord.main(["--nodaemon", "--configuration", conf])


if __name__ == "__main__":
    main()
