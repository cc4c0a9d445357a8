"""From a command to its exit code: what went wrong becomes one line on stderr."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dsnet_med.cli.ending import TERMINATED_LINE, end_at_once, end_with_sigterm
from dsnet_med.cli.environment import require_libraries
from dsnet_med.cli.exit_codes import BAD_INPUT, INTERRUPTED, SOME_FAILED, TERMINATED
from dsnet_med.cli.noise import quiet
from dsnet_med.cli.streams import output_lost
from dsnet_med.errors import CasesFailedError, InputError, StoppedError, one_line, root_cause, want_of_means
from dsnet_med.extras import missing_in

_INTERRUPTED = "interrupted; whatever was written is whole"


def run_dsnet_med(arguments: Sequence[str]) -> int:
    """`dsnet-med ...`"""

    def command() -> Any:
        if "--help" not in arguments:  # which waits for nothing
            require_libraries()
            quiet()
        from dsnet_med.cli.app import app

        return app(list(arguments), standalone_mode=False)

    return _told(guarded(command))


def run_monai(arguments: Sequence[str]) -> int:
    """`monai bundle ...`"""

    def command() -> None:
        require_libraries()
        quiet()
        from dsnet_med.cli.bundle import monai_command

        monai_command(list(arguments))

    return _told(guarded(command))


def _told(code: int) -> int:
    """The exit code of a command that ended with `code`: 1 where it was 0 and what it printed is lost."""
    lost = output_lost()
    if code == TERMINATED:
        end_at_once()
    if lost is None:
        return code
    sys.stderr.write(f"dsnet-med: what was printed could not be written ({lost}); files are not concerned\n")
    return code or SOME_FAILED


def guarded(command: Callable[[], Any]) -> int:
    """Run a command; say what went wrong in one line on stderr and return the exit code."""
    end_with_sigterm()
    if os.environ.get("DSNET_MED_DEBUG") == "1":
        return int(command() or 0)
    try:
        code = int(command() or 0)
        if code == INTERRUPTED:  # typer has caught Ctrl-C itself
            sys.stderr.write(f"\ndsnet-med: {_INTERRUPTED}\n")
        return code
    except SystemExit as ended:
        if ended.code != TERMINATED:
            raise
        message, code = TERMINATED_LINE, TERMINATED
    except (Exception, KeyboardInterrupt) as error:
        message, code = _explained(root_cause(error))
    if message:
        sys.stderr.write(f"dsnet-med: {' '.join(message.split())}\n")
    return code


def _explained(error: BaseException) -> tuple[str, int]:
    where = "(DSNET_MED_DEBUG=1 shows where)"
    means = None if isinstance(error, InputError | StoppedError) else want_of_means(error)
    if means is not None:
        return f"{means} ({type(error).__name__}: {one_line(error)}) {where}", SOME_FAILED
    if (extra := missing_in(error, "this command")) is not None:
        return str(extra), BAD_INPUT
    if _is_installation(error):
        advice = "install what is missing or damaged anew, torch and torchvision together"
        return f"a library cannot be loaded: {error}; {advice} {where}", BAD_INPUT
    import click

    reason = f"{type(error).__name__}: {str(error)[:500]}"
    if "in DataLoader worker process" in reason:  # the traceback there, and in its last line the reason
        reason = f"reading the data failed: {str(error).strip().splitlines()[-1][:500]}"
    explained = f"{reason} {where}", SOME_FAILED
    match error:
        case InputError():  # that of a data loader's worker has its traceback before it
            explained = str(error).rpartition("\ndsnet_med.errors.InputError: ")[2], BAD_INPUT
        case click.exceptions.Exit():
            explained = "", error.exit_code
        case click.ClickException():
            explained = error.format_message(), BAD_INPUT
        case StoppedError():
            explained = str(error), SOME_FAILED
        case CasesFailedError():
            explained = f"{len(error.failures)} failed: {error}", SOME_FAILED
        case KeyboardInterrupt() | click.Abort():
            explained = _INTERRUPTED, INTERRUPTED
    return explained


def _is_installation(error: BaseException) -> bool:
    """Whether a library is missing or damaged, or torchvision was built for another torch."""
    if isinstance(error, ModuleNotFoundError) and error.name is None:  # MONAI's, for a `_target_` that is none
        return False
    return isinstance(error, ImportError) or "operator torchvision::" in str(error)
