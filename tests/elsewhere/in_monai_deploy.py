"""Run by an environment that has MONAI Deploy's App SDK: `in_monai_deploy.py JOB.json` segments volumes.

A job is {"bundle": a folder or a model.ts, "infer": [[image.nii, output.npy], ...], "as": "dicom" or "array"}.
In goes what the SDK's loader of DICOM series, or that of NIfTI files, makes; out comes what its writers get.
"""

import json
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.deploy.core import AppContext, Fragment, Image, IOType
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator


class Ports:
    """Both sides of an operator without an application."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def receive(self, _: str) -> Any:
        return self.value

    def get(self, _: str) -> None:
        return None

    def emit(self, value: Any, _: str) -> None:
        self.value = value


def as_from_dicom(path: str) -> Image:
    """As DICOMSeriesToVolumeOperator makes it: (D, H, W), with the affine of (W, H, D) to RAS+ millimetres."""
    volume = nibabel.load(path)
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    metadata = dict(
        zip(("row_pixel_spacing", "col_pixel_spacing", "depth_pixel_spacing"), spacing.tolist(), strict=True)
    )
    metadata |= {"nifti_affine_transform": volume.affine, "affine": volume.affine, "space": "RAS"}
    return Image(np.swapaxes(np.asarray(volume.dataobj), 0, 2), metadata)


def main(job: dict[str, Any]) -> None:
    bundle = Path(job["bundle"])
    context = AppContext(
        {"model": str(bundle) if bundle.is_file() else str(bundle.parent / "none"), "input": "."}
    )
    operator = MonaiBundleInferenceOperator(
        Fragment(),
        app_context=context,
        input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
        output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
        bundle_path=bundle,
        name="segment",
    )
    for image, output in job["infer"]:
        value = as_from_dicom(image) if job["as"] == "dicom" else np.asarray(nibabel.load(image).dataobj)
        out = Ports()
        operator.compute(Ports(value), out, None)
        np.save(output, np.swapaxes(out.value.asnumpy(), 0, 2))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
