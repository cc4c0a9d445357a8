"""The names and colours of classes as a label description file of ITK-SNAP: one for all masks of a folder."""

from collections.abc import Sequence
from pathlib import Path

from dsnet_med.errors import one_line
from dsnet_med.files import write_text
from dsnet_med.organs import organ_of

LABEL_FILE = "itksnap_labels.txt"
_HEAD = f"""\
{"#" * 48}
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    IDX:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
{"#" * 48}
"""


def label_descriptions(class_names: Sequence[str]) -> str:
    """The text of the file: a line for each class id, the background as ITK-SNAP's "Clear Label"."""
    rows = [_row(0, (0, 0, 0), 0, "Clear Label")]
    for number, organ in enumerate(map(organ_of, class_names[1:]), start=1):
        rows.append(_row(number, organ.colour, 1, one_line(organ.label).replace('"', "'")))
    return _HEAD + "".join(rows)


def write_label_descriptions(folder: Path, class_names: Sequence[str]) -> None:
    """Write the file into a folder of masks. Raises InputError when it cannot be written."""
    write_text(folder / LABEL_FILE, label_descriptions(class_names))


def _row(number: int, colour: tuple[int, int, int], shown: int, label: str) -> str:
    red, green, blue = colour
    return f'{number:5} {red:5} {green:4} {blue:4} {shown:8} {shown:2} {shown:2}    "{label}"\n'
