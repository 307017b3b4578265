"""PgBouncer lets a share of its server sessions write to a leader that is read-only by default.

Each new server session draws by `connect_query`, which PgBouncer carries out before it gives the session to any
client. Who draws nothing has nothing set, and follows the server's own setting whenever that changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from temporalio import activity

from activities.files import Changed, replace_file
from activities.pooler import console, databases
from schemas.damage_orders import ShareOrder
from schemas.failures import NotYet, RouteUnavailable
from schemas.routes import PgBouncerRoute

_DRAW = "SELECT set_config(''default_transaction_read_only'', ''off'', false) WHERE random() < {share}"
_DRAWS = re.compile(r" connect_query='" + re.escape(_DRAW.format(share="@")).replace("@", r"[0-9.]+") + "'")


def drawing(text: str, names: Iterable[str], share: float) -> str:
    """The databases file with draws for these databases, and no others; all else stays as it is."""
    lines = []
    for line in text.splitlines(keepends=True):
        name = line.partition("=")[0].strip()
        if name in names:
            line = _DRAWS.sub("", line)
            if share:
                line = f"{line.rstrip()} connect_query='{_DRAW.format(share=f'{share:.4f}')}'\n"
        lines.append(line)
    return "".join(lines)


def may_draw(route: PgBouncerRoute) -> list[str]:
    """Databases whose owner has declared no query of his own for new sessions: there is room for one."""
    return [name for name, options in route.databases.items() if "connect_query" not in options]


@activity.defn
async def let_share_write(order: ShareOrder) -> str:
    """File, RELOAD, RECONNECT: sessions of before end once no client uses them, and new ones draw.

    Always all of it: whether PgBouncer has read the file, it does not say. Drawing anew does no harm.
    """
    route, names = order.route, may_draw(order.route)
    path = Path(route.databases_file)
    try:
        before = path.read_text(encoding="utf-8")
        text = drawing(before, names, order.share)
        if text != before:
            replace_file(path, text, seen=before)
    except Changed as error:
        # By a failover that leads the route elsewhere: what it wrote must stand.
        raise NotYet(f"{path} was written by another run just now") from error
    except OSError as error:
        raise RouteUnavailable(f"{path}: {error.strerror}") from error
    async with console(route) as conn:
        await conn.execute("RELOAD")
        there = await databases(conn, route)
        for name in names:
            if name in there:
                await conn.execute(f'RECONNECT "{name}"')
    if not order.share:
        return f"{route.name}: no session draws"
    if not names:
        return f"{route.name}: nobody, since its databases have a `connect_query` of their own"
    return f"{route.name}: {order.share:.0%} of new sessions of {', '.join(names)}"
