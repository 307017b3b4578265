"""`lifeboat`: the command as a whole, its errors and its exit code."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cli import answers, runs, schedules, topology, watch
from cli.choices import regions
from cli.connect import Address, Namespace, where
from cli.output import err
from cli.problems import Exit, explain
from cli.ready import ready

app = typer.Typer(
    name="lifeboat",
    help="Disaster-recovery runbooks as durable workflows.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 compensated, 4 waiting for a person.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"lifeboat {importlib.metadata.version('lifeboat')}\n")
        raise typer.Exit


@app.callback()
def lifeboat(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Disaster-recovery runbooks as durable workflows."""


RUNS, PEOPLE, ESTATE = "Runs", "What a person says to a run", "The estate"

app.command(rich_help_panel=RUNS)(runs.plan)
app.command(rich_help_panel=RUNS)(runs.run)
app.command(rich_help_panel=RUNS)(runs.runs)
app.command(rich_help_panel=RUNS)(runs.show)
app.command(rich_help_panel=RUNS)(runs.report)
app.command(rich_help_panel=PEOPLE)(answers.approve)
app.command(rich_help_panel=PEOPLE)(answers.reject)
for name, help_text in answers.VERBS.items():
    app.command(name, rich_help_panel=PEOPLE)(answers.verb(name, help_text))
app.command(rich_help_panel=ESTATE)(ready)
app.add_typer(watch.app, name="watch", rich_help_panel=ESTATE)
app.add_typer(schedules.app, name="schedules", rich_help_panel=ESTATE)
app.add_typer(topology.app, name="topology", rich_help_panel=ESTATE)


@app.command(rich_help_panel=ESTATE)
def worker(
    region: Annotated[str, typer.Option("--region", help="The region whose queue is served.", autocompletion=regions)],
    topology: Annotated[
        Path | None, typer.Option("--topology", metavar="FILE", help="The estate; the current lab's otherwise.")
    ] = None,
    address: Address = None,
    namespace: Namespace = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="HOST:PORT", help="Serve Prometheus there; or LIFEBOAT_METRICS.")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option("--log-format", metavar="text|json", help="Or LIFEBOAT_LOG.")
    ] = None,
) -> None:
    """Be the worker of a region, until SIGTERM. Traces go where OTEL_EXPORTER_OTLP_ENDPOINT says."""
    from workers.main import main as serve

    place = where(address, namespace)
    arguments = ["--region", region]
    for option, value in (
        ("--topology", topology or place.topology),
        ("--address", place.address),
        ("--namespace", place.namespace),
        ("--metrics", metrics),
        ("--log-format", log_format),
    ):
        arguments += [option, str(value)] if value is not None else []
    raise typer.Exit(serve(arguments))


def _mount_lab() -> None:
    """Not at import: the lab brings modules that the other commands don't need."""
    from cli import lab

    app.add_typer(lab.app, name="lab", rich_help_panel=ESTATE)


def call(arguments: list[str]) -> int:
    """One command; its exit code. What a person can mend is one or two lines on stderr, never a traceback."""
    try:
        # Commands return nothing; an int is the code of a typer.Exit.
        code = app(arguments, prog_name="lifeboat", standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "lifeboat"
        err().print(f"{error.format_message()}\n{command} --help tells how", markup=False, soft_wrap=True)
        return Exit.USAGE
    except (KeyboardInterrupt, typer.Abort):
        err().print("stopped; a run that was started goes on without this view")
        return Exit.INTERRUPTED
    except Exception as error:
        problem = explain(error, "Temporal")
        if problem is None:
            raise
        err().print(f"lifeboat: {problem}", markup=False, soft_wrap=True)
        return problem.code
    return code if isinstance(code, int) else Exit.DONE


def main() -> NoReturn:
    """The entry of the `lifeboat` command.

    It ends the process itself: the interpreter may abort at its exit once the Temporal SDK's threads have run,
    and that abort would become the command's exit code.
    """
    _mount_lab()
    code = call(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            # The reader (`| head`) has all that it wanted.
            code = code or Exit.FAILED
    os._exit(code)
