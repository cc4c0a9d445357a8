"""Whether content is a DICOM object's, by its first bytes; with the preamble of files, or without it."""

_PREFIX = b"DICM"  # behind a preamble of 128 bytes, which may hold anything
_DIRECTORY = b"1.2.840.10008.1.3.10"  # the class of a DICOMDIR, beside the images on most media
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_SHORT = set(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_FIRST_GROUPS = (0x0002, 0x0008)
_ENOUGH = 3  # elements that follow each other as they must; no other format begins so
START = 512  # bytes to look at


def starts_dicom(start: bytes) -> bool:
    """Whether these first bytes are those of a DICOM object, the index of a medium (DICOMDIR) among them."""
    return start[128:132] == _PREFIX or any(_elements(start, order) >= _ENOUGH for order in ("little", "big"))


def starts_dicomdir(start: bytes) -> bool:
    """Whether these are the first bytes of a DICOMDIR."""
    return starts_dicom(start) and _DIRECTORY in start


def _elements(start: bytes, order: str) -> int:
    """How many elements of ascending tags the bytes begin with, each in explicit or implicit representation."""
    found, at, last = 0, 0, (0, -1)
    while at + 12 <= len(start) and found < _ENOUGH:
        tag = _number(start[at : at + 2], order), _number(start[at + 2 : at + 4], order)
        kind = start[at + 4 : at + 6]
        if kind in _LONG:
            head, length = 12, _number(start[at + 8 : at + 12], order)
        elif kind in _SHORT:
            head, length = 8, _number(start[at + 6 : at + 8], order)
        else:
            head, length = 8, _number(start[at + 4 : at + 8], order)
        if tag <= last or (not found and tag[0] not in _FIRST_GROUPS) or length % 2 or length > START:
            break
        found, at, last = found + 1, at + head + length, tag
    return found


def _number(content: bytes, order: str) -> int:
    return int.from_bytes(content, "little" if order == "little" else "big")
