"""The ``zkserve`` command: publish, serve, work, predict, verify and what operating needs.

Every command takes ``--json`` for machines; for people there is progress on standard error and an
answer on standard output. An error says what was wrong and what to do, and exits with 1.
"""

from __future__ import annotations

import errno
import sys

import typer

from zkserve.cli import operate, owner, rekey, user
from zkserve.cli.console import report_error
from zkserve.errors import Unavailable, ZkserveError

app = typer.Typer(
    help="Verifiable inference: proven predictions from a model whose weights stay hidden.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
owner.register(app)
rekey.register(app)
user.register(app)
operate.register(app)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except ZkserveError as exc:
        report_error(exc, as_json="--json" in sys.argv)
        sys.exit(1)
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = Unavailable(
            "The disk is full. What was written is whole, or not there.",
            remedy="Make room, and run the same again.",
        )
        report_error(full, as_json="--json" in sys.argv)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
