"""A run without a training, and a bundle of it."""

import json
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from dsnet_med.engine.run import prepare
from dsnet_med.engine.scripted import scripted
from dsnet_med.inference.bundle_reader import load_model
from dsnet_med.phantoms import make_synapse
from dsnet_med.prepare.convert import convert
from dsnet_med.prepare.recipe import load_recipe

_NARROW = {"width": 0.125, "network_def#backbone#layers": [1, 1, 1, 1], "size": [32, 32], "workers": 0}


def untrained_run(folder: Path) -> Path:
    """A run folder whose weights nobody trained: its masks are of all classes, and no two alike."""
    raw, store = folder.parent / "raw", folder.parent / "store"
    list(make_synapse(raw, cases=4, seed=0, size=(32, 32, 8)))
    list(convert(load_recipe("synapse"), raw, store, workers=1))
    prepare("fcn_dsm", store, folder, _NARROW)
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.yaml"))
    torch.manual_seed(0)
    network = parser.get_parsed_content("slice_network").train()
    with torch.no_grad():
        images = torch.rand(8, 1, 32, 32)
        network(images)  # for the statistics of its norms
        logits, last = network.eval()(images), network.head.classifier
        mean, deviation = logits.mean((0, 2, 3)), logits.std((0, 2, 3))
        last.bias.copy_((last.bias - mean) / deviation)  # so that no class wins everywhere
        last.weight.div_(deviation[:, None, None, None])
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def as_bundle(run: Path, folder: Path) -> Path:
    """The bundle of a run, as far as other programs read it."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    for name in ("inference", "train"):
        parser = ConfigParser()
        parser.read_config(str(run / "configs" / f"{name}.yaml"))
        config = {
            key: value for key, value in parser.get().items() if key != "_meta_"
        }  # which Deploy would take
        if name == "train":
            config["dataset_dir"] = "stores/synapse"
        (folder / "configs" / f"{name}.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    metadata = (run / "configs" / "metadata.json").read_text(encoding="utf-8")
    (folder / "configs" / "metadata.json").write_text(metadata, encoding="utf-8")
    (folder / "models" / "model.pt").write_bytes((run / "models" / "model.pt").read_bytes())
    model = load_model(run, trust=True)
    extra = {"metadata.json": json.dumps(json.loads(metadata))}
    extra["inference.json"] = (folder / "configs" / "inference.json").read_text(encoding="utf-8")
    module = scripted(model.network, model.size, model.fit, 4, model.in_channels)
    torch.jit.save(module, str(folder / "models" / "model.ts"), _extra_files=extra)
    return folder
