"""What a compressed frame says of itself, from its own header, before any decoder sees it.

A decoder makes room for what the codestream names. So that is compared with the DICOM header first, and a
codestream whose header is damaged is refused here.
"""

import struct
from contextlib import suppress
from dataclasses import dataclass

from pydicom.uid import JPEG2000TransferSyntaxes

_NO_FRAME = {0xC4, 0xC8, 0xCC}  # among SOF0 to SOF15: tables, and one that is reserved
_FRAME = {*range(0xC0, 0xD0), 0xF7} - _NO_FRAME
_WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xDA)}
_BOXES = b"\0\0\0\x0cjP  "  # a JP2 file around the codestream, which some writers leave
_MOST_TILES = 65535
_RLE_TABLE = 64  # bytes


@dataclass(frozen=True)
class Image:
    """What the DICOM header says of every frame of a file; `signed` is PixelRepresentation, 0 or 1."""

    syntax: str
    rows: int
    columns: int
    allocated: int
    stored: int
    signed: int
    photometric: str

    @property
    def pixels(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class Claim:
    """What a codestream says: its size, components per pixel, bits of each, and whether they are signed."""

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool = False


def checked(code: bytes, image: Image) -> Claim:
    """What the codestream of one frame claims, as the header wants it. Raises ValueError where it differs."""
    try:
        claim = _jpeg_2000(code) if image.syntax in JPEG2000TransferSyntaxes else _jpeg(code)
    except (IndexError, struct.error) as error:
        raise ValueError("the header of its codestream is cut short") from error
    if (claim.rows, claim.columns) != (image.rows, image.columns):
        raise ValueError(
            f"its codestream names {claim.rows} x {claim.columns} pixels, "
            f"Rows and Columns {image.rows} x {image.columns}"
        )
    if claim.samples != 1:
        raise ValueError(f"its codestream names {claim.samples} values per pixel, SamplesPerPixel 1")
    if not 2 <= claim.precision <= image.allocated:
        raise ValueError(
            f"its codestream names {claim.precision} bits per value, BitsAllocated {image.allocated}"
        )
    return claim


def _jpeg(code: bytes) -> Claim:
    """Of JPEG and JPEG-LS: the segments up to the first frame header."""
    if code[:2] != b"\xff\xd8":
        raise ValueError("its codestream does not begin as JPEG")
    at = 2
    while True:
        if code[at] != 0xFF:
            raise ValueError("a byte that is no marker stands before its frame header")
        if code[at + 1] == 0xFF:  # filling
            at += 1
            continue
        marker, length = code[at + 1], int.from_bytes(code[at + 2 : at + 4], "big")
        if marker in _WITHOUT_LENGTH or marker == 0xDA or length < 2:
            raise ValueError(f"the marker FF{marker:02X} stands before its frame header, or is damaged")
        if marker in _FRAME:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", code, at + 4)
            if length != 8 + 3 * samples:
                raise ValueError("its frame header is damaged")
            return Claim(rows, columns, samples, precision)
        at += 2 + length


def _jpeg_2000(code: bytes) -> Claim:
    """The segment SIZ, which comes first."""
    at = _codestream_in(code) if code.startswith(_BOXES) else 0
    if code[at : at + 4] != b"\xff\x4f\xff\x51":
        raise ValueError("its codestream does not begin as JPEG 2000")
    length, _, *size, samples = struct.unpack_from(">HH8IH", code, at + 4)
    right, below, left, above, tile_width, tile_height, tile_left, tile_above = size
    if length != 38 + 3 * samples or right <= left or below <= above or 0 in (tile_width, tile_height, samples):
        raise ValueError("its size segment is damaged")
    if tile_left > left or tile_above > above:
        raise ValueError("its tiles begin within the image")
    across, down = -((tile_left - right) // tile_width), -((tile_above - below) // tile_height)
    if across * down > _MOST_TILES:
        raise ValueError(f"its codestream names {across} x {down} tiles")
    kind, step_across, step_down = struct.unpack_from(">3B", code, at + 42)
    if (step_across, step_down) != (1, 1):
        raise ValueError("its codestream names an image of fewer values than pixels")
    return Claim(below - above, right - left, samples, (kind & 0x7F) + 1, bool(kind & 0x80))


def _codestream_in(code: bytes) -> int:
    """Where the codestream begins in a JP2 file."""
    at = 0
    while code[at + 4 : at + 8] != b"jp2c":
        length = int.from_bytes(code[at : at + 4], "big")
        if length < 8 or at + length >= len(code):
            raise ValueError("its JP2 boxes are damaged")
        at += length
    return at + 8


# ---------------------------------------------------------------- RLE


def unpacked(code: bytes, image: Image) -> bytearray:
    """The pixels of an RLE frame, little endian. Raises ValueError for all but whole ones.

    Not pydicom's own, which unpacks everything that is there before it looks at the size.
    """
    count = image.allocated // 8
    if len(code) < _RLE_TABLE:
        raise ValueError("its table of segments is cut short")
    named, *starts = struct.unpack_from("<16I", code)
    if named != count:
        raise ValueError(f"it has {named} segments, wanted {count} for BitsAllocated {image.allocated}")
    spans = list(zip(starts[:count], [*starts[1:count], len(code)], strict=True))
    if not all(_RLE_TABLE <= start <= end <= len(code) for start, end in spans):
        raise ValueError("its table of segments points outside the frame")
    pixels = bytearray(count * image.pixels)
    for index, (start, end) in enumerate(spans):  # the highest byte comes first
        pixels[count - 1 - index :: count] = _segment(code[start:end], image.pixels)[: image.pixels]
    return pixels


def _segment(packed: bytes, size: int) -> bytearray:
    """At least `size` bytes of one segment, and few more. Raises ValueError for fewer."""
    made, at = bytearray(), 0
    extend = made.extend
    with suppress(IndexError):  # where it ends
        while len(made) < size:
            for _ in range((size - len(made)) // 128 + 1):  # runs of 128 at most cannot give many more
                head = packed[at]
                if head > 128:
                    extend(packed[at + 1 : at + 2] * (257 - head))
                    at += 2
                elif head < 128:
                    following = at + 2 + head
                    extend(packed[at + 1 : following])
                    at = following
                else:
                    at += 1
    if len(made) < size:
        raise ValueError(f"a segment holds {len(made)} of {size} bytes")
    return made
