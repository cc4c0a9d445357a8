"""The command line. Commands import what they need when they run, so that --help is quick."""

import os
import sys
from collections.abc import Callable
from typing import Any

from dsnet_med.errors import CasesFailedError, InputError, root_cause

BAD_INPUT, SOME_FAILED, INTERRUPTED = 2, 1, 130
_INTERRUPTED = "interrupted; whatever was written is whole"


def main() -> None:
    """The `dsnet-med` console script."""
    from dsnet_med.cli.app import app

    sys.exit(guarded(lambda: app(standalone_mode=False)))


def monai() -> None:
    """The `monai` console script: `monai bundle run training`, typed in a bundle folder."""
    from dsnet_med.cli.bundle import monai_command

    sys.exit(guarded(lambda: monai_command(sys.argv[1:])))


def guarded(command: Callable[[], Any]) -> int:
    """Run a command; say what went wrong in one line on stderr and return the exit code."""
    if os.environ.get("DSNET_MED_DEBUG") == "1":
        return int(command() or 0)
    try:
        code = int(command() or 0)
        if code == INTERRUPTED:  # typer has caught Ctrl-C itself
            sys.stderr.write(f"\ndsnet-med: {_INTERRUPTED}\n")
        return code
    except (Exception, KeyboardInterrupt) as error:
        message, code = _explained(root_cause(error))
    if message:
        sys.stderr.write(f"dsnet-med: {' '.join(message.split())}\n")
    return code


def _explained(error: BaseException) -> tuple[str, int]:
    import click

    reason = f"{type(error).__name__}: {str(error)[:500]} (DSNET_MED_DEBUG=1 shows where)"
    explained = reason, SOME_FAILED
    match error:
        case InputError():  # that of a data loader's worker has its traceback before it
            explained = str(error).rpartition("\ndsnet_med.errors.InputError: ")[2], BAD_INPUT
        case click.exceptions.Exit():
            explained = "", error.exit_code
        case click.ClickException():
            explained = error.format_message(), BAD_INPUT
        case CasesFailedError():
            explained = f"{len(error.failures)} failed: {error}", SOME_FAILED
        case KeyboardInterrupt() | click.Abort():
            explained = _INTERRUPTED, INTERRUPTED
        case BrokenPipeError():
            explained = "", 0
    return explained
