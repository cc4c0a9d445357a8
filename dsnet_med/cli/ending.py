"""SIGTERM ends a command as Ctrl-C does: what is under way is tidied up, and a line says so."""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import NoReturn

from dsnet_med.cli.exit_codes import TERMINATED

TERMINATED_LINE = "terminated; whatever was written is whole"
_INSIST_AFTER_S = 8  # Docker gives ten


def end_with_sigterm() -> None:
    """Answer SIGTERM by SystemExit(143), where nothing does yet; a second one ends the process at once."""
    here = threading.current_thread() is threading.main_thread()
    if here and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, partial(_end, os.getpid()))


def _end(process: int, number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    if os.getpid() != process:  # one that was forked
        os.kill(os.getpid(), number)
        return
    with suppress(RuntimeError):  # no more threads may be started
        threading.Thread(target=_insist, daemon=True).start()
    raise SystemExit(TERMINATED)


def _insist() -> None:
    """End the process though something holds it: a long step, or code that swallows the exception."""
    time.sleep(_INSIST_AFTER_S)
    with suppress(OSError):
        os.write(2, f"dsnet-med: {TERMINATED_LINE}\n".encode())
    end_at_once()


def end_at_once() -> NoReturn:
    """End this process and those that it has started; taking Python and its libraries apart takes seconds."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(TERMINATED)
