"""Where a network runs, and in which numbers."""

from pathlib import Path

import torch

from dsnet_med.errors import InputError, unknown

PRECISIONS = ("float32", "bfloat16")


def choose_device(name: str) -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `cuda:N`. Raises InputError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise unknown("device", name, ("auto", "cpu", "cuda", "cuda:0"))
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device '{name}': no CUDA device is visible; use --device cpu")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise InputError(f"device '{name}': there are {torch.cuda.device_count()} CUDA devices, from cuda:0 on")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> tuple[torch.dtype, str | None]:
    """The type to compute in, and a notice where it is not the one called `name`. Raises InputError.

    bfloat16 on a processor that cannot compute in it takes three times as long as float32, which is then used.
    """
    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    if name == "float32":
        return torch.float32, None
    if computes_bfloat16(device):
        return torch.bfloat16, None
    return torch.float32, f"this {device.type} does not compute in bfloat16; float32 was used"


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16, and does not make it from float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)  # the last one on ARM
