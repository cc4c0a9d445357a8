"""The process that decodes: one frame after the other from its standard input, until that ends.

It is run as a file, by itself: nothing of this package is imported, so that it starts at once. GDCM comes
first, as pydicom has it; what that does not decode is left to the other plug-ins of pydicom that are installed.
"""

import json
import os
import signal
import struct
import sys
from contextlib import suppress
from typing import Any, BinaryIO

HEAD = struct.Struct("<IQ")  # bytes of the JSON that follows, then of codestream or pixels
_ALLOWANCE = 128 << 20  # bytes of memory, for a frame of any size
_EACH_PIXEL, _EACH_BYTE = 48, 6  # bytes of memory per pixel and per byte of codestream

_KINDS = "1.2.840.10008.1.2.4."
_JPEG_LS, _NEAR_LOSSLESS = (f"{_KINDS}80", f"{_KINDS}81"), f"{_KINDS}81"
_JPEG_2000 = (f"{_KINDS}90", f"{_KINDS}91")
_EXTENDED = f"{_KINDS}51"
_GDCM = (*_JPEG_LS, *_JPEG_2000, _EXTENDED, f"{_KINDS}50", f"{_KINDS}57", f"{_KINDS}70")


def main() -> None:
    """Answer until there is nothing more to read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, at whose end the input ends
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # decoders print, and stderr leads nowhere
    try:
        import gdcm  # noqa: PLC0415 -- the others can do without
    except ImportError:
        gdcm = None
    while asked := _received(sys.stdin.buffer):
        image, code = asked
        try:
            answer, pixels = {}, _decoded(gdcm, code, image)
        except Exception as error:
            said = " ".join(str(error).split())[:300] or type(error).__name__
            answer, pixels = {"error": said, "unsupported": isinstance(error, NotImplementedError)}, b""
        text = json.dumps(answer).encode()
        answers.write(HEAD.pack(len(text), len(pixels)) + text)
        answers.write(pixels)
        answers.flush()
        del pixels, code, asked


def _received(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    text, size = HEAD.unpack(head)
    return json.loads(stream.read(text)), stream.read(size)


def _decoded(gdcm: Any, code: bytes, image: dict[str, Any]) -> bytes:
    """The pixels of a frame, little endian. Raises NotImplementedError where nothing decodes its kind."""
    needed = _ALLOWANCE + _EACH_PIXEL * image["rows"] * image["columns"] + _EACH_BYTE * len(code)
    failures: list[Exception] = []
    if gdcm is not None and image["syntax"] in _GDCM:
        _limit(needed, image["seconds"])
        try:
            return _by_gdcm(gdcm, code, image)
        except Exception as failure:
            failures.append(failure)
    _limit(None, image["seconds"])  # an import that runs out of memory leaves ruins
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415 -- takes long, and is seldom needed
    from pydicom.uid import UID  # noqa: PLC0415

    decoder = get_decoder(UID(image["syntax"]))
    others = set(decoder.available_plugins) - {"gdcm"}
    _limit(needed, image["seconds"])
    for plugin in sorted(others, reverse=True):  # pylibjpeg before pyjpegls and pillow, as pydicom asks them
        try:
            return _by_pydicom(decoder, plugin, code, image)
        except Exception as failure:
            failures.append(failure)
    if all(isinstance(failure, NotImplementedError) for failure in failures):
        raise NotImplementedError(str(failures[0]) if failures else "no decoder")
    raise next(failure for failure in failures if not isinstance(failure, NotImplementedError))


def _by_gdcm(gdcm: Any, code: bytes, image: dict[str, Any]) -> bytes:
    """As pydicom's plug-in for GDCM asks it."""
    syntax, allocated, stored = image["syntax"], image["allocated"], image["stored"]
    if syntax == _EXTENDED and stored != 8:
        raise NotImplementedError("JPEG Extended of 12 bits")
    if syntax in _JPEG_LS and (
        stored in (6, 7) or (syntax == _NEAR_LOSSLESS and image["signed"] and stored < 8)
    ):
        raise NotImplementedError("JPEG-LS of 6 or 7 bits, or signed near-lossless of fewer than 8")
    if syntax in (*_JPEG_LS, *_JPEG_2000):
        stored = image["precision"]
        allocated = 8 if stored <= 8 else 16 if stored <= 16 else 32
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(code)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    picture = gdcm.Image()
    picture.SetNumberOfDimensions(2)
    picture.SetDimensions((image["columns"], image["rows"], 1))
    picture.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(image["photometric"])
    picture.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    picture.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    picture.SetPixelFormat(gdcm.PixelFormat(1, allocated, stored, stored - 1, image["signed"]))
    pixels: str | None = picture.GetBuffer()
    if pixels is None:
        raise ValueError("GDCM finds no whole picture in it")
    return pixels.encode("utf-8", "surrogateescape")


def _by_pydicom(decoder: Any, plugin: str, code: bytes, image: dict[str, Any]) -> bytes:
    from pydicom.encaps import encapsulate  # noqa: PLC0415

    try:
        pixels, _ = decoder.as_buffer(
            encapsulate([code]),
            index=0,
            decoding_plugin=plugin,
            rows=image["rows"],
            columns=image["columns"],
            samples_per_pixel=1,
            number_of_frames=1,
            photometric_interpretation=image["photometric"],
            bits_allocated=image["allocated"],
            bits_stored=image["stored"],
            pixel_representation=image["signed"],
            pixel_keyword="PixelData",
        )
    except RuntimeError as error:  # pydicom's own, with what the plug-in said
        if "does not support" in str(error):
            raise NotImplementedError(str(error)) from error
        raise
    return bytes(pixels)


def _mapped_bytes() -> int:
    with suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 1 << 30


def _limit(memory: int | None, seconds: float) -> None:
    """So many more bytes for the process, and so much more processor time, should its parent be gone."""
    with suppress(ImportError, ValueError, OSError):  # not every system has limits
        import resource

        bounds = {
            resource.RLIMIT_AS: resource.RLIM_INFINITY if memory is None else _mapped_bytes() + memory,
            resource.RLIMIT_CPU: int(sum(os.times()[:2]) + seconds + 2),
            resource.RLIMIT_CORE: 0,
        }
        for kind, most in bounds.items():
            _, hard = resource.getrlimit(kind)
            unlimited = hard == resource.RLIM_INFINITY
            soft = most if unlimited else hard if most == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (soft, hard))


if __name__ == "__main__":
    main()
