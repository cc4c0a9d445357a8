"""The references of the cases that are explained: found, read and named as `evaluate` does it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dsnet_med.errors import InputError, first_of
from dsnet_med.evaluate.classes import Classes
from dsnet_med.evaluate.labels import Labels, labels_of_regions
from dsnet_med.evaluate.pairing import CaseOf, Pair, pair_files
from dsnet_med.evaluate.segments import LabelValues, classes_of
from dsnet_med.find import case_name
from dsnet_med.inference.predictor import Predictor
from dsnet_med.inference.source import Source
from dsnet_med.segmentations import read_pair
from dsnet_med.volumes import Volume, require_same_grid, write_labels


@dataclass(frozen=True)
class References:
    """What is scored, and the reference of each case; `values` gives for a file the class of its raw values.

    `failures` says why a case has none that can be used.
    """

    labels: Labels | None = None
    pairs: Mapping[str, Pair] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    values: Callable[[Path], LabelValues | None] = lambda _: None

    def of(self, case: str, volume: Volume, labels: Labels, folder: Path) -> Classes | None:
        """The reference of a case on the grid of its image, None where no references are given at all.

        `folder` is for a file that says which grid that is. Raises InputError where there is none, or it lies
        on another grid.
        """
        if not self.pairs and not self.failures:
            return None
        if case not in self.pairs:
            raise InputError(self.failures.get(case, f"{case}: no reference for it"))
        pair = self.pairs[case]
        grid = folder / "grid.nii"
        write_labels(grid, np.zeros(volume.shape, np.uint8), volume)
        given, _ = read_pair(pair.reference, grid, dict(pair.masks))
        require_same_grid(volume, given.volume)
        return classes_of(given, labels, self.values(pair.reference))[0]


def labels_of_run(predictor: Predictor) -> Labels:
    """What a run's own outputs are called: its regions, else its classes."""
    classes = {number: name for number, name in enumerate(predictor.class_names) if number}
    if not predictor.regions:
        return Labels(classes)
    if predictor.overlapping:
        return Labels(dict(enumerate(predictor.output_names, start=1)))
    return labels_of_regions(predictor.regions, classes)


def paired(
    sources: Sequence[Source],
    reference: Path,
    labels: Labels,
    *,
    image_case: CaseOf = case_name,
    reference_case: CaseOf = case_name,
    masks: Mapping[str, Mapping[str, Path]] | None = None,
    values: Callable[[Sequence[Pair]], Callable[[Path], LabelValues | None]] = lambda _: lambda _: None,
) -> References:
    """The references of sources in a folder (or one file), by case, as masks of them would be paired.

    `image_case` gives the case of a mask's file name. Raises InputError where no source has one.
    """
    cases = [source.case for source in sources]
    names = {case: image_case(Path(f"{case}.nii.gz")) or case for case in cases}
    if masks is None and reference.is_file() and len(sources) == 1:
        only = Pair(sources[0].case, sources[0].files[0], reference)
        return References(labels, {only.case: only}, {}, values([only]))
    files = {names[source.case]: source.files[0] for source in sources}
    found = pair_files(files, reference, reference_case=reference_case, masks=masks)
    own = {pair.prediction: pair for pair in found.pairs}
    pairs = {source.case: own[source.files[0]] for source in sources if source.files[0] in own}
    if not pairs:
        reasons = [*found.orphans.values(), *found.failures.values()]
        raise InputError(f"no input has a reference in {reference}: {first_of(reasons, 3)}")
    failures = {
        source.case: found.orphans.get(names[source.case])
        or found.failures.get(names[source.case])
        or f"{source.case}: no reference for it in {reference}"
        for source in sources
        if source.case not in pairs
    }
    return References(labels, pairs, failures, values(list(pairs.values())))
