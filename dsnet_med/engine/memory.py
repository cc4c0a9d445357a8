"""How much memory this process has, and had at most, on Linux; unknown elsewhere."""

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def restart_peak() -> None:
    """Let `peak_bytes` begin anew."""
    with suppress(OSError):
        _RESET.write_text("5", encoding="ascii")


def peak_bytes() -> int | None:
    """The most that this process had in memory since `restart_peak`; None where unknown."""
    return _of_status("VmHWM")


def resident_bytes() -> int | None:
    """The bytes of this process in memory, after giving back what it does not need; None where unknown."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # of another C library
            ctypes.CDLL(None).malloc_trim(0)
    return _of_status("VmRSS")


def _of_status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
