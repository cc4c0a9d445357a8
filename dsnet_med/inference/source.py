"""One case, as it was named and found."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Source:
    """One case: a volume file, or the DICOM files of a folder, of which a series is chosen on reading.

    A case of several files, one for each channel, has them as `parts`, in the order of the channels. `refused`
    says why it cannot be taken: the case fails, the others go on.
    """

    case: str
    kind: Literal["file", "dicom"]
    files: tuple[Path, ...]
    where: Path = field(compare=False)  # the file, or the folder of the files
    refused: str | None = field(default=None, compare=False)
    parts: "tuple[Source, ...]" = field(default=(), compare=False)


def own_name(folder: Path) -> str:
    """What a folder is called, wherever it is seen from."""
    return folder.resolve().name or "case"
