"""What `explain` finds of plug-ins whose effect is known."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tiny_networks as tiny
import torch
from torch import Tensor, nn

from dsnet_med.errors import CasesFailedError, InputError
from dsnet_med.explain import explain
from dsnet_med.explain.decided import Taking
from dsnet_med.networks.plugins import SE, Identity
from dsnet_med.networks.rezero import ReZero

NAME = "features.plugin"


class Factor(nn.Module):
    """A constant gate: each channel times a number of its own."""

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.register_buffer("factors", factors)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors.view(1, -1, *[1] * (x.ndim - 2))


class Says(Factor):
    """The same, that says what it is."""

    def explained(self, x: Tensor) -> dict[str, Tensor]:
        return {"gate_given": self.factors.expand(len(x), -1)}


class Masks(nn.Module):
    """A gate per place and channel that takes one organ out of every image; says so, or not."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.ones_like(x)
        gate[:, self.channel] = 0.01
        return x * gate


class ByImage(nn.Module):
    """A gate per channel that follows the image's own mean."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (0.2 + 1.6 * torch.sigmoid(x.mean(dim=tuple(range(2, x.ndim)), keepdim=True) - 5))


def explained(folder: Path, *predictors: Any, out: str = "out", **options: Any) -> dict[str, Any]:
    """Three cases explained with their references."""
    place = folder / "cases"
    images, labels = (place / "images", place / "labels") if place.exists() else tiny.write_cases(place)
    options.setdefault("reference", labels)
    return explain(list(predictors), [images], folder / out, pictures=0, shuffles=2, **options)


def effects(content: dict[str, Any], run: int = 0) -> dict[str, dict[str, Any]]:
    return {entry["kind"]: entry for entry in content["runs"][run]["interventions"] if entry["plugin"] == "all"}


@pytest.mark.parametrize(
    "plugin", [Identity, lambda channels: ReZero(SE(channels))], ids=["identity", "alpha 0"]
)
@pytest.mark.parametrize("dims", [2, 3])
def test_a_plugin_that_does_nothing_has_no_effect_at_all(plugin: Any, dims: int, tmp_path: Path) -> None:
    content = explained(tmp_path, tiny.predictor(plugin, dims=dims))
    found = effects(content)
    assert found.keys() == {"identity", "mean", "other", "shuffled"}
    for entry in found.values():
        for label in entry["labels"].values():
            assert label["dice"]["difference"] == 0
            assert label["hd95_mm"]["difference"] == 0
            assert label["agreement"]["mean"] == 1
            assert label["changed_ml"]["mean"] == 0
    measured = content["runs"][0]["plugins"][NAME]
    assert measured["form"] == "nothing"
    assert measured["energy_changed"]["max"] == 0


@pytest.mark.parametrize("make", [Factor, Says])
def test_a_constant_gate_loses_nothing_by_its_mean_and_something_by_the_identity(
    make: type[Factor], tmp_path: Path
) -> None:
    content = explained(tmp_path, tiny.predictor(make(torch.tensor([1.0, 1.0, 0.8, 1.3]))))
    found = effects(content)
    for kind in ("mean", "other"):
        assert found[kind]["mean"]["agreement"]["mean"] == 1, kind
        assert found[kind]["mean"]["dice"]["difference"] == 0, kind
    assert found["identity"]["mean"]["agreement"]["mean"] < 0.999
    assert found["shuffled"]["mean"]["agreement"]["mean"] < 0.999
    measured = content["runs"][0]["plugins"][NAME]
    assert (measured["form"], measured["declared"]) == ("channel", make is Says)
    assert measured["not_constant"] == pytest.approx(0, abs=1e-6)
    (gate,) = measured["gates"].values()
    np.testing.assert_allclose(gate["profile"], [1.3, 1, 1, 0.8], rtol=1e-5)


def test_a_gate_that_takes_out_one_organ_is_found_there_and_only_there(tmp_path: Path) -> None:
    content = explained(tmp_path, tiny.predictor(Masks(2)), interventions=["identity"])
    found = effects(content)["identity"]["labels"]
    assert found["middle"]["dice"]["difference"] > 0.5
    where = content["runs"][0]["where"]["labels"]
    assert where["middle"]["changed_share_inside"] > 0.9
    assert where["low"]["changed_ml_inside"] < 0.05 * where["middle"]["changed_ml_inside"]
    assert where["high"]["changed_ml_inside"] < 0.05 * where["middle"]["changed_ml_inside"]


def test_a_gate_that_follows_the_image_loses_by_its_mean(tmp_path: Path) -> None:
    content = explained(tmp_path, tiny.predictor(ByImage()))
    measured = content["runs"][0]["plugins"][NAME]
    assert (measured["form"], measured["declared"]) == ("channel", False)
    assert 0.01 < measured["not_constant"] < 1
    assert effects(content)["mean"]["mean"]["agreement"]["mean"] < 1


@pytest.mark.parametrize("dims", [2, 3])
def test_the_batch_size_does_not_matter(dims: int, tmp_path: Path) -> None:
    found = [
        explained(tmp_path, tiny.predictor(ByImage(), dims=dims, batch_size=size), out=f"out{size}")
        for size in (1, 5)
    ]
    scores = [(tmp_path / f"out{size}" / "scores.csv").read_text() for size in (1, 5)]
    assert scores[0] == scores[1]
    one, five = (content["runs"][0]["plugins"][NAME] for content in found)
    assert one["energy_changed"]["mean"] == pytest.approx(five["energy_changed"]["mean"], rel=1e-6)
    assert one["gates"]["gate"]["rank"] == pytest.approx(five["gates"]["gate"]["rank"], rel=1e-3)


class Starve:
    """A hook that runs out of memory after the plug-in has seen a batch, when it is called for these times."""

    def __init__(self, times: set[int]) -> None:
        self.times, self.count = times, 0

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count in self.times:
            raise MemoryError


@pytest.mark.parametrize("where", ["in the network", "behind it"])
def test_batches_that_do_not_fit_are_counted_once(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = explained(tmp_path, tiny.predictor(ByImage(), batch_size=2), out="whole")
    starved = tiny.predictor(ByImage(), batch_size=8)
    if where == "in the network":
        starved.models[0].network.register_forward_hook(Starve({3, 4}))  # what is measured of the first case
    else:
        starve, keep = Starve({2, 3}), Taking.keep

        def starving(self: Taking, part: slice, scores: Tensor) -> None:
            starve()
            keep(self, part, scores)

        monkeypatch.setattr(Taking, "keep", starving)
    halved = explained(tmp_path, starved, out="halved")
    assert halved["images"] == whole["images"] == 18
    one, other = (content["runs"][0]["plugins"] for content in (whole, halved))
    assert other[NAME]["energy_changed"] == pytest.approx(one[NAME]["energy_changed"])
    assert other[NAME]["not_constant"] == pytest.approx(one[NAME]["not_constant"])
    rows = [(tmp_path / out / "scores.csv").read_text() for out in ("whole", "halved")]
    assert rows[0] == rows[1]


def test_several_plugins_are_replaced_together_and_each_alone(tmp_path: Path) -> None:
    both = nn.Sequential(Factor(torch.tensor([1.0, 1.0, 0.8, 1.3])))
    predictor = tiny.predictor(both[0])
    tiny.attach(predictor.models[0].network, Identity, at="features", example=torch.rand(1, 1, 16, 16))
    content = explained(tmp_path, predictor, interventions=["identity"])
    by_plugin = {entry["plugin"]: entry for entry in content["runs"][0]["interventions"]}
    assert by_plugin.keys() == {"all", NAME, f"{NAME}2"}
    assert by_plugin[f"{NAME}2"]["mean"]["agreement"]["mean"] == 1
    assert by_plugin[NAME]["mean"] == by_plugin["all"]["mean"]
    together = explained(tmp_path, predictor, out="together", each=False)
    assert {entry["plugin"] for entry in together["runs"][0]["interventions"]} == {"all"}


class Halves(tiny.Bands):
    """Hands its plug-in the halves of every image, as two images."""

    def __init__(self) -> None:
        super().__init__()
        self.plug = SE(4)

    def forward(self, images: Tensor) -> Tensor:
        halves = self.plug(torch.cat(self.features(super().forward(images)).chunk(2, dim=-1)))
        return torch.cat(halves.chunk(2), dim=-1)


def test_a_plugin_that_cannot_be_told_apart_by_images_is_said_and_not_replaced(tmp_path: Path) -> None:
    predictor = tiny.predictor()
    predictor.models[0].network = Halves().eval().requires_grad_(False)
    content = explained(tmp_path, predictor)
    (run,) = content["runs"]
    assert "images" in run["not_measured"]["plug"]["reason"]
    assert any("plug (SE)" in line for line in content["leaves_out"])
    assert run["interventions"] == []
    assert run["scores"]["labels"]["low"]["dice"]["n"] == 3


def test_runs_side_by_side_and_one_without_a_plugin(tmp_path: Path) -> None:
    runs = [
        tiny.predictor(title="plain"),
        tiny.predictor(Factor(torch.tensor([1.0, 1, 0.8, 1.3])), title="gate"),
    ]
    content = explained(tmp_path, *runs)
    plain, gate = content["runs"]
    assert plain["interventions"] == []
    assert plain["plugins"] == {}
    assert plain["notes"]
    assert gate["interventions"]
    (between,) = content["between"]
    assert (between["first"], between["second"]) == ("plain", "gate")


def test_without_a_reference_masks_are_compared(tmp_path: Path) -> None:
    content = explained(tmp_path, tiny.predictor(Masks(2)), reference=None)
    assert content["reference"] is False
    entry = effects(content)["identity"]["labels"]["middle"]
    assert entry["dice"] is None or entry["dice"]["difference"] is None
    assert entry["agreement"]["mean"] < 0.1


def test_maps_lie_on_the_inputs_grid(tmp_path: Path) -> None:
    """A gate per place that is the image itself: its map is the image, whatever the orientation."""

    class Bright(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (1 + x[:, 3:])  # the channel that is the larger the brighter the voxel

        def explained(self, x: Tensor) -> dict[str, Tensor]:
            return {"gate": 1 + x[:, 3:]}

    turn = np.array([[0, 1.4, 0.1, 3], [-1.1, 0, 0.2, 2], [0.1, -0.1, -2.9, 9], [0, 0, 0, 1.0]])
    images, _ = tiny.write_cases(tmp_path / "cases", 1, turn)
    content = explain(
        [tiny.predictor(Bright())], [images], tmp_path / "out", interventions=[], save_maps=True, pictures=1
    )
    file = next(name for name in content["files"] if name.endswith("_gate.nii.gz"))
    written = nib.load(tmp_path / "out" / file)
    image = nib.load(images / "case0.nii.gz")
    assert written.shape == image.shape
    assert written.get_data_dtype() == np.float32
    np.testing.assert_allclose(written.affine, image.affine, atol=1e-6)
    wanted = 1 + 10 - 10 * np.abs(np.clip(image.get_fdata(), 0, 1) - 1)
    np.testing.assert_allclose(written.get_fdata(), wanted, atol=1e-3)


def test_one_bad_case_stops_no_other(tmp_path: Path) -> None:
    images, labels = tiny.write_cases(tmp_path / "cases")
    (images / "case1.nii.gz").write_bytes(b"no volume")
    moved = nib.load(labels / "case2.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(moved.dataobj), np.diag([2, 2, 2, 1.0])), labels / "case2.nii.gz")
    with pytest.raises(CasesFailedError):
        explain([tiny.predictor(SE)], [images], tmp_path / "out", labels, pictures=0, shuffles=1)
    text = (tmp_path / "out" / "scores.csv").read_text()
    assert "case0" in text
    assert "case1" not in text
    assert "case2" not in text


def test_a_case_that_goes_away_between_the_passes_leaves_no_rows(tmp_path: Path) -> None:
    images, labels = tiny.write_cases(tmp_path / "cases", 2)

    def tell(done: float, _planned: float) -> None:
        if done >= 4:  # both cases are through the first pass
            (images / "case1.nii.gz").unlink(missing_ok=True)

    with pytest.raises(CasesFailedError, match="case1"):
        explain([tiny.predictor(SE)], [images], tmp_path / "out", labels, pictures=0, shuffles=1, tell=tell)
    text = (tmp_path / "out" / "scores.csv").read_text() + (tmp_path / "out" / "where.csv").read_text()
    assert "case0" in text
    assert "case1" not in text


def test_what_is_refused(tmp_path: Path) -> None:
    images, labels = tiny.write_cases(tmp_path / "cases", 1)
    one = tiny.predictor(SE)
    two = tiny.predictor(SE, models=one.models * 2)
    with pytest.raises(InputError, match="ensemble of 2"):
        explain([two], [images], tmp_path / "out", labels)
    with pytest.raises(InputError, match="intervention"):
        explain([one], [images], tmp_path / "out", labels, interventions=["identiti"])
    with pytest.raises(InputError, match="twice"):
        explain([one, one], [images], tmp_path / "out", labels)
    other = tiny.predictor(class_names=("background", "a", "b", "c"), title="other")
    with pytest.raises(InputError, match="differ in class_names"):
        explain([one, other], [images], tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scores.csv").write_text("mine")
    with pytest.raises(InputError, match="not written by explain"):
        explain([one], [images], tmp_path / "out", labels)
    assert (tmp_path / "out" / "scores.csv").read_text() == "mine"
