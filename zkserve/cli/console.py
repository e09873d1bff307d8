"""How the command line speaks: answers on standard output, all else on standard error."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zkserve.engines.base import Progress
from zkserve.errors import InvalidInput, ZkserveError
from zkserve.settings import Settings

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

JsonFlag = Annotated[bool, typer.Option("--json", help="Answer in JSON, without progress.")]
JsonErrorsFlag = Annotated[
    bool, typer.Option("--json", help="Report in JSON why it cannot run; logs always are JSON.")
]


def read_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        InvalidInput: one has a value it cannot have.

    """
    try:
        return Settings()
    except ValidationError as exc:
        first = exc.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        wrong = f"Setting ZKSERVE_{name} is wrong" if name else "The settings contradict each other"
        raise InvalidInput(
            f"{wrong}: {first['msg'].removeprefix('Value error, ').rstrip('.')}.",
            remedy="docs/settings.md lists every setting.",
        ) from exc


def answer(data: dict[str, Any] | list[Any], as_json: bool, *lines: str) -> None:
    """Print the JSON form, or the lines made for people."""
    if as_json:
        typer.echo(json.dumps(data, indent=2))
    else:
        for line in lines:
            out.print(line)


def table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table."""
    shown = Table(title=title, title_justify="left")
    for column in columns:
        shown.add_column(column, overflow="fold")  # never cut off
    for row in rows:
        shown.add_row(*map(Text, row))
    out.print(shown)


def report_error(error: ZkserveError, *, as_json: bool) -> None:
    """Print an error: as a problem object, or as a sentence and the next step."""
    if as_json:
        problem = {"code": error.code, "detail": error.message, "remedy": error.remedy}
        typer.echo(json.dumps({"error": problem}, indent=2))
        return
    err.print("[bold red]error[/]:", Text(error.message))
    if error.remedy:
        err.print(f"  → {error.remedy}", markup=False)


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Show the phase at work and how long each took."""
    if quiet:
        yield lambda _phase: None
        return
    started = time.monotonic()
    current: list[str] = []
    with err.status("starting") as status:

        def show(phase: str) -> None:
            nonlocal started
            if current:
                _done(current.pop(), time.monotonic() - started)
            started = time.monotonic()
            current.append(phase)
            status.update(phase)

        yield show
        if current:
            _done(current.pop(), time.monotonic() - started)


def _done(phase: str, elapsed_s: float) -> None:
    err.print(f"[green]✓[/] {phase} [dim]{elapsed_s:.1f} s[/]")
