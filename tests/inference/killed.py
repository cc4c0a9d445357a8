"""Run by test_killed.py: segments a folder in children that are killed at random, then to the end."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import tiny
import torch

from dsnet_med.inference.outputs import Outputs
from dsnet_med.inference.segment import segment_cases
from dsnet_med.inference.sources import find_sources

ALL = Outputs(("nifti",), probabilities=True, statistics=True, preview=True)


def segment(images: Path, out: Path) -> None:
    """All cases, with every kind of output."""
    errors = [result.error for result in segment_cases(tiny.predictor(), find_sources([images]), out, ALL)]
    if any(errors):
        raise RuntimeError(str(errors))


def main(images: Path, out: Path, kills: int, seconds: float) -> None:
    """`kills` children that live up to `seconds`, then one that is left alone; prints how many were alive."""
    torch.set_num_threads(1)  # nothing may run in parallel before a fork
    random.seed(0)
    struck = 0
    for number in range(kills + 1):
        child = os.fork()
        if child == 0:
            segment(images, out)
            os._exit(0)
        if number < kills:
            time.sleep(random.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        struck += os.WIFSIGNALED(status)
    sys.stdout.write(f"{struck} {status}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
