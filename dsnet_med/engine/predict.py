"""The inputs of a bundle's inference workflow."""

from pathlib import Path

from dsnet_med.errors import InputError
from dsnet_med.inference.sources import find_sources

_READ = (".nii", ".nii.gz")


def items(folder: str) -> list[dict[str, str]]:
    """The NIfTI files in a folder as MONAI data items; `infer` reads the other formats. Raises InputError."""
    sources = [source for source in find_sources([Path(folder)]) if source.where.name.endswith(_READ)]
    if refused := next((source.refused for source in sources if source.refused), None):
        raise InputError(refused)
    files = [source.where for source in sources]
    if not files:
        raise InputError(f"{folder}: holds no .nii or .nii.gz file")
    return [{"image": str(file)} for file in files]
