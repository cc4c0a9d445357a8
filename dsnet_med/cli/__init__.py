"""The command line. Commands import what they need when they run, so that --help is quick."""

import os
import sys
from collections.abc import Callable
from typing import Any

from dsnet_med.errors import CasesFailedError, InputError

BAD_INPUT, SOME_FAILED, INTERRUPTED = 2, 1, 130


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
    import click

    if os.environ.get("DSNET_MED_DEBUG") == "1":
        command()
        return 0
    try:
        return int(command() or 0)
    except InputError as error:
        return _say(str(error), BAD_INPUT)
    except click.exceptions.Exit as leave:
        return int(leave.exit_code)
    except click.ClickException as error:
        return _say(error.format_message(), BAD_INPUT)
    except CasesFailedError as error:
        return _say(f"{len(error.failures)} failed: {error}", SOME_FAILED)
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted; finished work is kept", INTERRUPTED)
    except BrokenPipeError:
        return 0
    except Exception as error:
        root = _root(error)
        if isinstance(root, InputError):
            return _say(str(root), BAD_INPUT)
        reason = " ".join(str(root).split())[:500]
        return _say(f"{type(root).__name__}: {reason} (DSNET_MED_DEBUG=1 shows where)", SOME_FAILED)


def _root(error: BaseException) -> BaseException:
    """The error that a configuration language wrapped in its own, or the error itself."""
    while error.__cause__ is not None and not isinstance(error, InputError):
        error = error.__cause__
    return error


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"dsnet-med: {' '.join(message.split())}\n")
    return code
