"""A run without a training, and a bundle of it."""

from pathlib import Path

import torch
from monai.bundle import ConfigParser

from dsnet_med.engine.export.folder import joined, read_run, write_folder
from dsnet_med.engine.export.formats import write_torchscript
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
    """What `export` writes of a run and other programs read, without the certificate, which takes its time."""
    folder.mkdir()
    read = read_run(run, load_model, trust=True)
    write_folder([read], joined([read]), read.configs["metadata"], folder)
    model, configs = load_model(folder, trust=True), folder / "configs"
    extra = {name: (configs / name).read_text(encoding="utf-8") for name in ("inference.json", "metadata.json")}
    module = scripted(model.network, model.size, model.fit, 4, model.in_channels)
    write_torchscript(module, extra, folder / "models" / "model.ts")
    return folder
