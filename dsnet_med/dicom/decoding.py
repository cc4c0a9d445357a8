"""Compressed frames to pixels. Decoders of JPEG and its kin are native code that a damaged file can bring down:
GDCM's exceptions end the process, and no `except` sees them. So they work in processes of their own, two where
there are two cores: started when they are needed first, there for every file after it, replaced when they die.
"""

import atexit
import json
import multiprocessing.spawn
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import islice, repeat
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, RLELossless

from dsnet_med.dicom.codestream import Claim, Image, checked, unpacked
from dsnet_med.dicom.decoder_process import HEAD

_PROGRAM = Path(__file__).with_name("decoder_process.py")
_SECONDS, _SECONDS_PER_MB = 20, 5  # for one frame, of which a usual one takes some hundredths
_LONGEST_TEXT = 10_000
PROCESSES = min(2, os.cpu_count() or 1)
_PIPE_BYTES = 1 << 20


class UnsupportedError(ValueError):
    """Nothing that is installed decodes this kind of codestream."""


class _DiedError(RuntimeError):
    """The process ended within a frame."""


def get_ready(syntax: object) -> bool:
    """Whether pixels in this transfer syntax are decoded in another process, which begins now."""
    known = isinstance(syntax, UID) and syntax.is_transfer_syntax and not syntax.is_private
    if not isinstance(syntax, UID) or not known or not syntax.is_encapsulated or syntax == RLELossless:
        return False
    with suppress(OSError):  # which decoding will say
        _DECODERS.get_ready()
    return True


def images_of(content: Dataset, image: Image, count: int, wanted: Sequence[int]) -> list[NDArray[Any]]:
    """The frames of these indices, from 0, of `count` in a compressed file, each (rows, columns).

    As pydicom has them: bits that are not stored do not count. Raises ValueError for what is damaged,
    UnsupportedError, OSError and MemoryError.
    """
    offsets = content.get("ExtendedOffsetTable"), content.get("ExtendedOffsetTableLengths")
    codes = generate_frames(
        content.PixelData, number_of_frames=count, extended_offsets=offsets if all(offsets) else None
    )
    needed = set(wanted)
    found = {index: code for index, code in enumerate(islice(codes, count)) if index in needed}
    if len(found) < len(needed):
        raise ValueError(f"it holds fewer than the {count} frames that it names")
    if count == 1 and next(codes, None) is not None:
        raise ValueError("it holds more frames than the one that it names")
    if len(found) == 1 or image.syntax == RLELossless:
        return [_pixels(found[index], image) for index in wanted]
    with ThreadPoolExecutor(PROCESSES) as pool:
        try:
            return list(pool.map(_pixels, (found[index] for index in wanted), repeat(image)))
        finally:
            pool.shutdown(cancel_futures=True)


def _pixels(code: bytes, image: Image) -> NDArray[Any]:
    claim = None if image.syntax == RLELossless else checked(code, image)
    raw: bytes | bytearray
    if claim is None:
        raw = unpacked(code, image)
    else:
        with _DECODERS.free() as decoder:
            raw = decoder.decode(code, image, claim)
    size, rest = divmod(len(raw), image.pixels)
    if rest or size not in (1, 2, 4) or size > image.allocated // 8:
        raise ValueError(f"it decodes to {len(raw)} bytes for {image.pixels} pixels")
    pixels = np.frombuffer(raw, f"<{'ui'[image.signed]}{size}").reshape(image.rows, image.columns)
    shift = _unused_bits(8 * size, image, claim)
    if shift:
        pixels = np.left_shift(pixels, shift)
        pixels >>= shift
    return pixels


def _unused_bits(bits: int, image: Image, claim: Claim | None) -> int:
    """How many of the highest bits of a value say nothing; shifting there and back extends the sign."""
    if claim is not None and image.syntax in JPEG2000TransferSyntaxes:
        return bits - claim.precision if claim.signed != bool(image.signed) else 0
    if claim is not None and image.syntax in JPEGLSTransferSyntaxes:  # which knows no signs
        return bits - claim.precision if image.signed else 0
    return max(0, bits - image.stored)


class _Decoder:
    """A process, or none yet; for one thread at a time."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def decode(self, code: bytes, image: Image, claim: Claim) -> bytes:
        """The pixels of one frame, little endian. Raises as `images_of`."""
        seconds = _SECONDS + _SECONDS_PER_MB * (len(code) + 4 * image.pixels) / 1e6
        asked = asdict(image) | {"precision": claim.precision, "seconds": seconds}
        for last in (False, True):  # something else may have ended it
            try:
                answer, pixels = self._answer(json.dumps(asked).encode(), code, 4 * image.pixels, seconds)
                break
            except _DiedError as error:
                if last:
                    raise ValueError("its decoder crashed") from error
        if answer:
            kind = UnsupportedError if answer.get("unsupported") else ValueError
            raise kind(str(answer.get("error")))
        return pixels

    def started(self) -> subprocess.Popen[bytes]:
        """The process, another one where it has ended. Raises OSError."""
        if self.process is None or self.process.poll() is not None:
            self.end()
            python = os.fsdecode(multiprocessing.spawn.get_executable() or sys.executable)
            self.process = subprocess.Popen(
                [python, "-P", str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            _widen(self.process)
        return self.process

    def _answer(self, text: bytes, code: bytes, most: int, seconds: float) -> tuple[dict[str, Any], bytes]:
        process, late = self.started(), threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            return _exchanged(process, text, code, most)
        except (OSError, ValueError, _DiedError) as error:
            self.end()
            if late.is_set():
                raise ValueError(f"its decoder came to no end in {seconds:.0f} seconds") from error
            raise _DiedError from error
        except BaseException:  # interrupted: what comes next would be the rest of this answer
            self.end()
            raise
        finally:
            timer.cancel()

    def end(self) -> None:
        """End the process; another is started when it is needed."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout)):
                with suppress(OSError):  # what it did not read
                    pipe.close()


def _widen(process: subprocess.Popen[bytes]) -> None:
    """Let a whole frame fit into the pipes, where the system can: fewer changes between the two processes."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        for pipe in filter(None, (process.stdin, process.stdout)):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _exchanged(
    process: subprocess.Popen[bytes], text: bytes, code: bytes, most: int
) -> tuple[dict[str, Any], bytes]:
    """What the process answers, of so many bytes of pixels or fewer. Raises OSError, ValueError, _DiedError."""
    if process.stdin is None or process.stdout is None:
        raise _DiedError
    process.stdin.write(HEAD.pack(len(text), len(code)) + text)
    process.stdin.write(code)
    process.stdin.flush()
    head = process.stdout.read(HEAD.size)
    if len(head) < HEAD.size:
        raise _DiedError
    sizes = HEAD.unpack(head)
    if sizes[0] > _LONGEST_TEXT or sizes[1] > most:
        raise _DiedError
    said, pixels = process.stdout.read(sizes[0]), process.stdout.read(sizes[1])
    if (len(said), len(pixels)) != sizes:
        raise _DiedError
    return json.loads(said), pixels


class _Decoders:
    """The decoders of this process."""

    def __init__(self) -> None:
        self._parents: list[_Decoder] = []
        self._begin()

    def _begin(self) -> None:
        self.every = [_Decoder() for _ in range(PROCESSES)]
        self._free: LifoQueue[_Decoder] = LifoQueue()  # one thread alone has the same one again and again
        for decoder in self.every:
            self._free.put(decoder)

    @contextmanager
    def free(self) -> Iterator[_Decoder]:
        """One that no other thread has."""
        decoder = self._free.get()
        try:
            yield decoder
        finally:
            self._free.put(decoder)

    def get_ready(self) -> None:
        """Start one where none is at work. Raises OSError."""
        with suppress(Empty):
            decoder = self._free.get_nowait()
            try:
                decoder.started()
            finally:
                self._free.put(decoder)

    def close(self) -> None:
        """End the processes; others are started when they are needed."""
        for decoder in self.every:
            decoder.end()

    def forget(self) -> None:
        """In a forked process: they are the parent's. Kept, since closing a pipe could write into it."""
        self._parents += self.every
        for decoder in self._parents:
            if decoder.process is not None:
                decoder.process.returncode = 0  # not to be waited for here
        self._begin()


_DECODERS = _Decoders()
atexit.register(_DECODERS.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_DECODERS.forget)
