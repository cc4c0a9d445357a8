"""Files that name what they segment, as label maps: 3D Slicer's .seg.nrrd, DICOM segmentations, structure sets.

Their segments may overlap: a file becomes as few label maps (layers) as hold all segments whole. They need not
cover the image: DICOM segmentations have frames where there is something, structure sets have no grid at all,
Slicer crops. So they are read onto the grid of another file, exactly: axes are exchanged or reversed, nothing
is resampled.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsnet_med.errors import InputError
from dsnet_med.find import NRRD
from dsnet_med.segments_dicom import Piece
from dsnet_med.sniff import dicom_segmentation
from dsnet_med.volumes import Grid, Volume, label_type, read_labels, require_same_grid, unchanged

LabelMap = NDArray[np.unsignedinteger[Any]]
_OFF_GRID = 0.05  # of a voxel, at every corner; what DICOM's decimal strings and ITK's directions lose is less


class Segment(NamedTuple):
    """What a file calls one of its values, and in which of its layers the value means that."""

    name: str
    value: int
    layer: int


@dataclass(frozen=True)
class Layered:
    """A segmentation on a grid: label maps (X, Y, Z), and its named segments; none where values have no names.

    `volume` is its first layer with what is known of the file.
    """

    volume: Volume
    layers: tuple[LabelMap, ...]
    segments: tuple[Segment, ...]

    def on(self, volume: Volume, layers: Iterable[LabelMap]) -> "Layered":
        """The same segments elsewhere."""
        return replace(self, volume=volume, layers=tuple(layers))


def read_pair(
    reference: Path, prediction: Path | None, masks: Mapping[str, Path] | None = None
) -> tuple[Layered, Layered | None]:
    """Two segmentations, of any kind, those that can be on one grid. Raises InputError.

    With `masks` the reference is those: a file for each structure, which may overlap. The grid is that of a
    label map, or of a .seg.nrrd file; of DICOM segmentations alone it is the smallest that holds the frames of
    both.
    """
    paths = [reference] if prediction is None else [reference, prediction]
    kinds = {path: dicom_segmentation(path) for path in paths}
    gridded = {
        path: _gridded(path) for path in paths if kinds[path] is None and not (masks and path is reference)
    }
    if masks:
        gridded[reference] = _of_masks(masks)
    plain = [path for path in gridded if not gridded[path].segments or (masks and path is reference)]
    like = gridded[(plain or list(gridded))[0]].volume if gridded else _grid_of(kinds)
    found = {}
    for path in paths:
        if kinds[path] is not None:
            found[path] = _placed(path, kinds[path], like)
        elif gridded[path].segments and gridded[path].volume is not like:
            found[path] = _embedded(gridded[path], like)
        else:
            found[path] = gridded[path]
    return found[reference], None if prediction is None else found[prediction]


def names_in(path: Path) -> tuple[str, ...]:
    """What a file calls its segments, from its header; nothing where it names none. Raises InputError."""
    kind = dicom_segmentation(path)
    if kind == "seg":
        from dsnet_med.segments_dicom import segment_names  # noqa: PLC0415

        return tuple(segment_names(path).values())
    if kind == "rtstruct":
        from dsnet_med.contours import structure_names  # noqa: PLC0415

        return tuple(structure_names(path).values())
    if not path.name.lower().endswith(NRRD):
        return ()
    from dsnet_med.volumes_itk import segments_of  # noqa: PLC0415 -- SimpleITK takes long to load

    return tuple(name for _, _, name in segments_of(path))


# ---------------------------------------------------------------- what has a grid of its own


def _gridded(path: Path) -> Layered:
    if not path.name.lower().endswith(NRRD):
        volume = read_labels(path, hashed=True)
        return Layered(volume, (volume.voxels,), ())
    from dsnet_med.volumes_itk import segments_of  # noqa: PLC0415 -- SimpleITK takes long to load

    segments = tuple(Segment(name, value, layer) for layer, value, name in segments_of(path))
    count = 1 + max((segment.layer for segment in segments), default=0)
    volumes = [read_labels(path, index, hashed=True) for index in (range(count) if count > 1 else (None,))]
    return Layered(volumes[0], tuple(volume.voxels for volume in volumes), segments)


def _of_masks(masks: Mapping[str, Path]) -> Layered:
    """A file for each structure, whatever is not 0 in it, as named segments. Raises InputError."""
    first: Volume | None = None
    layers: list[LabelMap] = []
    segments: list[Segment] = []
    digests: dict[Path, str] = {}
    notes: list[str] = []
    for number, (name, path) in enumerate(masks.items(), start=1):
        volume = read_labels(path, hashed=True)
        first = first or volume
        require_same_grid(first, volume)
        mask = volume.voxels > 0
        index = next((n for n, layer in enumerate(layers) if not layer[mask].any()), len(layers))
        if index == len(layers):
            layers.append(np.zeros(first.shape, label_type(len(masks)), order="F"))
        layers[index][mask] = number
        segments.append(Segment(name, number, index))
        digests |= volume.digests
        notes += [f"{path.name}: {note}" for note in volume.notes]
    if first is None:
        raise InputError("a reference of masks needs one at least")
    whole = replace(first, voxels=layers[0], digests=digests, notes=tuple(dict.fromkeys(notes)))
    return Layered(whole, tuple(layers), tuple(segments))


def _embedded(given: Layered, like: Grid) -> Layered:
    """A segmentation on the grid of `like`, of which it is a part; where it is none, as it is."""
    layers = []
    for layer in given.layers:
        target = np.zeros(like.shape, layer.dtype, order="F")
        if not _pasted(layer, given.volume, like, target):
            return given
        layers.append(target)
    volume = replace(given.volume, shape=like.shape, affine=like.affine, voxels=layers[0])
    return given.on(volume, layers)


def _pasted(voxels: LabelMap, own: Grid, like: Grid, target: LabelMap) -> bool:
    """Whether a layer was put into `target`: none of its voxels between those of `like`, no label outside."""
    place = _place_in(like, own.affine, voxels.shape)
    if place is None:
        return False
    inside, part = place.clipped(voxels, like.shape)
    if np.count_nonzero(part) < np.count_nonzero(voxels):
        return False
    target[inside] = part
    return True


# ---------------------------------------------------------------- what lies on another's grid


def _grid_of(kinds: Mapping[Path, str | None]) -> Grid:
    frames = [path for path, kind in kinds.items() if kind == "seg"]
    if not frames:
        only = next(iter(kinds))
        raise InputError(
            f"{only}: a structure set has contours and no voxels; give a label map or a DICOM segmentation "
            "as the other one"
        )
    from dsnet_med.contours import reach  # noqa: PLC0415
    from dsnet_med.segments_dicom import lattice_of  # noqa: PLC0415

    grid = lattice_of(frames)
    (columns, rows, slices), affine = grid.shape, grid.affine.copy()
    spans = [reach(path, grid) for path in kinds if path not in frames]
    first = min(0, *(low for low, _ in spans)) if spans else 0
    last = max(slices - 1, *(high for _, high in spans)) if spans else slices - 1
    affine[:3, 3] += affine[:3, 2] * first
    return replace(grid, shape=(columns, rows, last - first + 1), affine=affine)


def _placed(path: Path, kind: str | None, like: Grid) -> Layered:
    with unchanged([path]) as digests:
        if kind == "seg":
            from dsnet_med.segments_dicom import read_segments  # noqa: PLC0415

            names, pieces, notes = read_segments(path)
        else:
            from dsnet_med.contours import read_structures  # noqa: PLC0415

            names, pieces, notes = read_structures(path, like)
        layers, layer_of = _layers(path, pieces, like, max(names, default=0))
    segments = tuple(Segment(name, number, layer_of.get(number, 0)) for number, name in names.items())
    volume = Volume(path, like.shape, like.affine, None, layers[0], notes, (), digests)
    return Layered(volume, tuple(layers), segments)


def _layers(
    path: Path, pieces: Iterator[tuple[int, Sequence[Piece]]], like: Grid, highest: int
) -> tuple[list[LabelMap], dict[int, int]]:
    """As few label maps as hold the pieces of every segment whole, and in which of them each is."""
    dtype = label_type(highest)
    layers: list[LabelMap] = [np.zeros(like.shape, dtype, order="F")]
    layer_of = {}
    for number, of_segment in pieces:
        parts = [_part(path, piece, like) for piece in of_segment]
        index = next((n for n, layer in enumerate(layers) if _is_free(layer, parts)), len(layers))
        if index == len(layers):
            layers.append(np.zeros(like.shape, dtype, order="F"))
        for place, mask in parts:
            layers[index][place][mask] = number
        layer_of[number] = index
    return layers, layer_of


def _is_free(layer: LabelMap, parts: Sequence[tuple[tuple[slice, ...], NDArray[np.bool_]]]) -> bool:
    return not any(layer[place][mask].any() for place, mask in parts)


def _part(path: Path, piece: Piece, like: Grid) -> tuple[tuple[slice, ...], NDArray[np.bool_]]:
    """Where a piece lies in the grid, and its voxels there in the grid's order. Raises InputError."""
    place = _place_in(like, piece.affine, piece.mask.shape)
    if place is None:
        raise InputError(
            f"{path}: its voxels lie between those of {like.path}, and not on them; make both on one grid"
        )
    inside, part = place.clipped(piece.mask, like.shape)
    if lost := np.count_nonzero(piece.mask) - np.count_nonzero(part):
        raise InputError(
            f"{path}: {lost} labelled voxels of one of its slices lie outside of the grid of {like.path}; give "
            "one that holds all"
        )
    return inside, part


@dataclass(frozen=True)
class _Place:
    """Where an array lies in a grid: its corner, the grid's axis of each of its own, which run backwards."""

    start: tuple[int, ...]
    axes: tuple[int, ...]
    reversed: tuple[bool, ...]

    def clipped(self, voxels: NDArray[Any], shape: Sequence[int]) -> tuple[tuple[slice, ...], NDArray[Any]]:
        """The part of `voxels` that lies inside a grid of `shape`, in the grid's order, and where."""
        turned = voxels[tuple(slice(None, None, -1 if back else 1) for back in self.reversed)]
        turned = turned.transpose(np.argsort(self.axes))
        low = [max(0, first) for first in self.start]
        high = [
            max(least, min(length, first + own))
            for least, length, first, own in zip(low, shape, self.start, turned.shape, strict=True)
        ]
        inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        own = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, self.start, strict=True))
        return inside, turned[own]


def _place_in(like: Grid, affine: NDArray[np.float64], shape: Sequence[int]) -> _Place | None:
    """Where an array with this affine lies in a grid; None where its voxels are none of the grid's."""
    matrix = np.linalg.solve(like.affine, affine)
    if shape[2] == 1:  # which way a slice is thick does not matter
        free = np.argmin(np.abs(matrix[:3, :2]).max(axis=1))
        matrix[:3, 2] = np.eye(3)[free]
    whole = np.rint(matrix)
    turn = np.abs(whole[:3, :3])
    if not ((turn.sum(axis=0) == 1).all() and (turn.sum(axis=1) == 1).all()):
        return None
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    off = (matrix - whole)[:3] @ np.vstack([corners, np.ones(corners.shape[1])])
    if np.abs(off).max() > _OFF_GRID:
        return None
    axes = turn.argmax(axis=0)
    back = [whole[axis, own] < 0 for own, axis in enumerate(axes)]
    start = whole[:3, 3].astype(int)
    for own, axis in enumerate(axes):
        if back[own]:
            start[axis] -= shape[own] - 1
    return _Place(tuple(start.tolist()), tuple(axes.tolist()), tuple(map(bool, back)))
