"""Write docs/cli.md and docs/settings.md from the code: ``python -m docs.reference``.

A test compares the files with what this gives, so that neither is ever behind.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from zkserve.cli import app
from zkserve.settings import Settings

FOLDER = Path(__file__).parent
GENERATED = "<!-- Written by `python -m docs.reference`; change the code's help, not this file. -->"


def settings_page() -> str:
    """Return docs/settings.md."""
    prefix = Settings.model_config["env_prefix"]
    rows = [
        f"| `{prefix}{name.upper()}` | {_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(
        [
            GENERATED,
            "# Settings",
            "",
            "Environment variables, read by `serve`, `work` and the other commands when they "
            "start. Nothing else is configured, and no file is read. What each is for in "
            "production: [operations](operations.md).",
            "",
            "| setting | default | what it is |",
            "| --- | --- | --- |",
            *rows,
            "",
            "`predict` and `status` also read `ZKSERVE_API_KEY`, the key they send.",
            "",
        ]
    )


def cli_page() -> str:
    """Return docs/cli.md."""
    command = typer.main.get_command(app)
    parts = [
        GENERATED,
        "# Command line",
        "",
        _prose(command.help),
        "",
        "Answers go to standard output, progress and errors to standard error. Exit status: 0 for "
        "success, 1 for an error (with what to do next), 2 for wrong usage, 130 when interrupted. "
        "With `--json` an error is an object `error` with `code`, `detail` and `remedy`. Settings "
        "come from the environment: [settings](settings.md).",
    ]
    for name, leaf in commands(command):
        parts += ["", *_section(name, leaf)]
    return "\n".join([*parts, ""])


def commands(command: Any, name: str = "zkserve") -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its full name."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for word, sub in below.items():
        yield from commands(sub, f"{name} {word}")


def _section(name: str, command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    words = [name, *(_metavar(a) if a.required else f"[{_metavar(a)}]" for a in arguments)]
    lines = [f"## `{name}`", "", _prose(command.help), ""]
    lines += ["```", " ".join([*words, *(["[OPTIONS]"] if options else [])]), "```"]
    if command.params:
        lines += ["", "| | default | |", "| --- | --- | --- |"]
    lines += [f"| `{_metavar(a)}` | | {a.help or ''} |" for a in arguments]
    for option in options:
        spelling = " / ".join(f"`{word}`" for word in [*option.opts, *option.secondary_opts])
        text = option.help or ""
        if option.envvar:
            text += f" Environment: `{option.envvar}`."
        shown = "" if option.default in (None, False) else _default(option.default)
        if option.default is True:
            shown = f"`{option.opts[0]}`"
        lines.append(f"| {spelling} | {shown} | {text} |")
    return lines


def _metavar(argument: Any) -> str:
    return argument.metavar or argument.name.upper()


def _prose(text: str | None) -> str:
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(text or ""))


def _default(value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, bool):
        value = str(value).lower()
    return "" if value in (None, "", PydanticUndefined) else f"`{value}`"


def main() -> None:
    """Write both pages."""
    (FOLDER / "cli.md").write_text(cli_page())
    (FOLDER / "settings.md").write_text(settings_page())


if __name__ == "__main__":
    main()
