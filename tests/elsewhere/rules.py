"""What MONAI Label 0.8.5 and MONAI Deploy App SDK 4.0.0 do with a bundle, in a few lines each.

Read for this: monailabel/tasks/infer/{bundle,basic_infer}.py, transform/{post,writer}.py;
monai/deploy/operators/monai_bundle_inference_operator.py. test_real.py compares with the packages themselves.
"""

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, decollate_batch
from monai.transforms import Compose, LoadImaged, SaveImaged
from numpy.typing import NDArray


def by_label(folder: Path, image: str) -> tuple[NDArray[Any], dict[str, int]]:
    """The segmentation (X, Y, Z) of a file and the names of its labels, as BundleInferTask gives them."""
    parser = ConfigParser()
    parser.read_config(str(_first(folder / "configs", "inference.json", "inference.yaml")))
    parser.config["bundle_root"] = str(folder)
    parser.config["device"] = "cpu"
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    network = parser.get_parsed_content("network_def")
    shortest = sorted((path.name for path in (folder / "models").glob("*.pt")), key=len)[0]
    state = torch.load(folder / "models" / shortest, map_location="cpu")
    network.load_state_dict(state.get("model", state), strict=False)
    network.eval()
    transforms = parser.get_parsed_content("preprocessing").transforms
    data: Any = {"image": image}
    for transform in transforms:
        if isinstance(transform, LoadImaged):
            transform._loader.image_only = False
        data = transform(data)
    with torch.no_grad():
        outputs = parser.get_parsed_content("inferer")(data["image"][None], network)
    data["pred"] = decollate_batch(outputs)[0]
    for transform in parser.get_parsed_content("postprocessing").transforms:
        if not isinstance(transform, SaveImaged):
            data = transform(data)
    if data["pred"].shape[1:] != tuple(data["image"].meta["spatial_shape"]):
        raise ValueError("MONAI Label would resize it")
    names = next(iter(metadata["network_data_format"]["outputs"].values()))["channel_def"]
    return data["pred"][0].numpy(), {v.lower(): int(k) for k, v in names.items() if v.lower() != "background"}


def by_deploy(bundle: Path, voxels: NDArray[Any], metadata: dict[str, Any]) -> NDArray[np.uint8]:
    """The segmentation (X, Y, Z) of voxels (X, Y, Z), as MonaiBundleInferenceOperator sends it on."""
    parser = ConfigParser()
    if bundle.is_dir():
        parser.read_config(str(_first(bundle / "configs", "inference.json", "inference.yaml")))
        network = parser.get_parsed_content("network")
        network.load_state_dict(torch.load(bundle / "models" / "model.pt", map_location="cpu"), strict=True)
        network = network.eval()
    else:
        network = torch.jit.load(str(bundle), map_location="cpu").eval()
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(bundle) as archive:
            json.loads(archive.read(f"{bundle.stem}/extra/metadata.json"))
            archive.extract(f"{bundle.stem}/extra/inference.json", folder)
            parser.read_config(str(Path(folder, bundle.stem, "extra", "inference.json")))
    if parser.get("_meta_"):
        raise ValueError("MONAI Deploy would take it for the metadata")
    before, after = (parser.get_parsed_content(name) for name in ("preprocessing", "postprocessing"))
    for compose in (before, after):
        _without_files(compose)
    metadata = {**metadata, "original_channel_dim": "no_channel"}
    image = MetaTensor.ensure_torch_and_prune_meta(torch.from_numpy(voxels), metadata)
    data = before({"image": image})
    with torch.no_grad():
        pred = parser.get_parsed_content("inferer")(inputs=data["image"][None], network=network)
    result = after({"pred": pred[0], "image": data["image"]})["pred"]
    return np.squeeze(result.cpu().numpy(), 0).astype(np.uint8)


def _first(folder: Path, *names: str) -> Path:
    return next(folder / name for name in names if (folder / name).is_file())


def _without_files(compose: Compose) -> None:
    names = ("LoadImage", "SaveImage")
    compose.transforms = tuple(t for t in compose.transforms if not any(n in type(t).__name__ for n in names))
