"""Forms that are found from input and output, interventions that leave alone what they must, sums by hand."""

from math import log

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dsnet_med.explain.gates import Correction, Forms, correction_of, left_over
from dsnet_med.explain.interventions import Image, Intervention, Means, Reservoir, replaced, shuffled
from dsnet_med.explain.measures import Change, Gate
from dsnet_med.networks import plugins

torch.manual_seed(0)
X = torch.randn(3, 5, 6, 4)
GATE = torch.rand(3, 5, 1, 1) + 0.5
PLACES = torch.rand(3, 1, 6, 4) + 0.5


class Said(nn.Module):
    """Says what it is told to say."""

    def __init__(self, **maps: Tensor) -> None:
        super().__init__()
        self.maps = maps

    def explained(self, _x: Tensor) -> dict[str, Tensor]:
        return self.maps


@pytest.mark.parametrize(
    ("y", "form", "gate", "added"),
    [
        (X, "nothing", None, None),
        (X * GATE, "channel", GATE, None),
        (X + GATE, "offset", None, GATE),
        (X * GATE - 2 * GATE, "channel and offset", GATE, -2 * GATE),
        (X * PLACES, "place", PLACES, None),
        (X * GATE * PLACES, "element", GATE * PLACES, None),
        (X + PLACES * torch.flip(X, [1]) + 1, "added", None, None),
    ],
)
def test_the_plainest_form_that_rebuilds_the_output(
    y: Tensor, form: str, gate: Tensor | None, added: Tensor | None
) -> None:
    forms = Forms(declared=False)
    forms.narrow(nn.Identity(), X, y)
    assert forms.chosen == form
    found = correction_of(form, nn.Identity(), X, y)
    assert float(left_over(found, X, y).max()) < 1e-5
    if form != "added":
        for one, wanted in ((found.gate, gate), (found.added, added)):
            assert (one is None) == (wanted is None)
            if one is not None and wanted is not None:
                np.testing.assert_allclose(one, wanted, atol=1e-4)


def test_one_image_is_enough_to_drop_a_form() -> None:
    whole, parts = Forms(declared=False), Forms(declared=False)
    y = torch.cat([X[:2] * GATE[:2], X[2:] * PLACES[2:]])
    whole.narrow(nn.Identity(), X, y)
    for one in (slice(2), slice(2, None)):
        parts.narrow(nn.Identity(), X[one], y[one])
    assert whole.chosen == parts.chosen == "element"


def test_what_a_plugin_says_counts_where_it_is_true() -> None:
    channel, place, added = GATE[..., 0, 0], PLACES, torch.ones(3, 5, 6, 4)
    forms = Forms(declared=True)
    said = Said(gate_channel=channel, gate_place=place, added=added, other=channel)
    forms.narrow(said, X, X * GATE * PLACES + 1)
    assert (forms.chosen, forms.note) == ("declared", "")
    found = correction_of("declared", said, X, X)
    np.testing.assert_allclose(found.of(X), X * GATE * PLACES + 1, atol=1e-6)
    forms = Forms(declared=True)
    forms.narrow(said, X, X * GATE * PLACES)
    assert forms.chosen == "element"
    assert "do not rebuild" in forms.note


@pytest.mark.parametrize("wrong", [torch.ones(2, 5), torch.ones(3, 4), torch.ones(3), "no tensor"])
def test_what_a_plugin_says_may_be_nonsense(wrong: object) -> None:
    forms = Forms(declared=True)
    forms.narrow(Said(gate=wrong), X, X * GATE)  # type: ignore[arg-type]
    assert forms.chosen == "channel"
    assert forms.note


@pytest.mark.parametrize("plugin", [getattr(plugins, name) for name in plugins.__all__])
def test_our_plugins_are_rebuilt(plugin: type[nn.Module]) -> None:
    module = plugin(5).eval()  # type: ignore[call-arg]
    with torch.no_grad():
        y = module(X)
        forms = Forms(hasattr(module, "explained"))
        forms.narrow(module, X, y)
        found = correction_of(forms.chosen, module, X, y)
    assert float(left_over(found, X, y).max()) < 1e-4
    assert forms.declared and not forms.note


IMAGES = [Image("a", 0, 2), Image("a", 1, 2), Image("b", 0, 1)]
SHUFFLED = Intervention("shuffled", frozenset({"p"}))


def test_the_same_correction_leaves_the_output_bit_for_bit() -> None:
    y = X * GATE + 1
    now = Correction(GATE, torch.ones(3, 1, 1, 1))
    assert replaced(y, X, now, Correction(GATE.clone(), torch.ones(3, 1, 1, 1))) is y
    assert replaced(y, X, Correction(), Correction()) is y
    other = replaced(y, X, now, Correction(GATE.flip(0), torch.zeros(3, 1, 1, 1)))
    np.testing.assert_allclose(other, X * GATE.flip(0), atol=1e-5)


def test_shuffles_exchange_values_and_belong_to_the_image() -> None:
    whole = shuffled(Correction(GATE * PLACES, None), SHUFFLED, "p", IMAGES).gate
    assert whole is not None
    np.testing.assert_allclose(whole.flatten(1).sort().values, (GATE * PLACES).flatten(1).sort().values)
    assert not torch.equal(whole, GATE * PLACES)
    alone = shuffled(Correction((GATE * PLACES)[1:2], None), SHUFFLED, "p", IMAGES[1:2]).gate
    assert alone is not None
    assert torch.equal(alone[0], whole[1])
    same = Correction((GATE * PLACES)[:1].expand(3, -1, -1, -1), None)
    each = shuffled(same, SHUFFLED, "p", IMAGES).gate
    assert each is not None
    assert not torch.equal(each[0], each[1])
    assert not torch.equal(each[0], each[2])
    again = shuffled(Correction(GATE * PLACES, None), Intervention("shuffled", frozenset("p"), 1), "p", IMAGES)
    assert again.gate is not None
    assert not torch.equal(again.gate, whole)


def test_the_mean_of_a_constant_is_the_constant_to_the_bit() -> None:
    means, gate = Means(), torch.rand(1, 5, 1, 1)
    for _ in range(7):
        means.add("p", Correction(gate.expand(3, -1, -1, -1)))
    mean = means.of("p").gate
    assert mean is not None
    assert torch.equal(mean, gate)


def test_other_images_are_of_other_cases_or_far_away() -> None:
    two = Reservoir(2)
    for case in "ab":
        for number in range(8):
            two.offer(
                Image(case, number, 8), {"p": Correction(torch.full((1, 2, 1, 1), ord(case) + number / 10))}
            )
    other = Intervention("other", frozenset("p"))
    for number in range(8):
        gate = two.other(Image("a", number, 8), other)["p"].gate
        assert gate is not None
        assert float(gate[0, 0]) >= ord("b")
    one = Reservoir(1)
    for number in range(8):
        one.offer(Image("a", number, 8), {"p": Correction(torch.full((1, 2, 1, 1), float(number)))})
    for number in range(8):
        gate = one.other(Image("a", number, 8), other)["p"].gate
        assert gate is not None
        assert abs(float(gate[0, 0]) - number) >= 2


def test_the_reservoir_has_a_bound_and_does_not_mind_the_order() -> None:
    held = []
    for order in (range(40), reversed(range(40))):
        reservoir = Reservoir(4, most_bytes=6 * 8)
        for place in order:
            image = Image("abcd"[place % 4], place // 4, 10)
            reservoir.offer(image, {"p": Correction(torch.zeros(1, 2, 1, 1))})
        held.append(set(reservoir.held))
    assert held[0] == held[1]
    assert len(held[0]) <= 6
    assert {case for case, _ in held[0]} == set("abcd")


def test_the_share_that_no_constant_makes_by_hand() -> None:
    """Gates 1.5 and 0.5 on inputs of one size: half of the change is constant only where it does not cancel."""
    change = Change()
    x = torch.ones(4, 1, 1, 1)
    gates = torch.tensor([1.2, 1.4, 1.2, 1.4]).view(4, 1, 1, 1)
    change.add(x, x * gates, Correction(gates))
    # the best factor is 1.3: it leaves 4 * 0.1^2, times 4 / 3, of 2 * 0.2^2 + 2 * 0.4^2
    assert change.not_constant() == pytest.approx(4 * 0.01 * 4 / 3 / (2 * 0.04 + 2 * 0.16), rel=1e-5)
    assert change.energy.summary()["mean"] == pytest.approx((0.04 + 0.16) / 2, rel=1e-5)


def test_entropy_and_rank_by_hand() -> None:
    gate = Gate("attention")
    shares = torch.tensor([[[0.5, 0.5, 0.0, 0.0]], [[0.0, 0.0, 0.5, 0.5]]])[..., None]  # (2, 1, 4, 1)
    gate.add(shares, 4)
    found = gate.summary()
    assert found["kind"] == "attention"
    assert found["entropy"] == pytest.approx(log(2) / log(4))
    assert found["over_even"] == [0, 2]
    assert found["rank"] == pytest.approx(1)  # two images differ along one line
    even = Gate("gate")
    even.add(torch.full((3, 6), 0.7), 4)
    summary = even.summary()
    assert (summary["kind"], summary["rank"]) == ("channel", 0)
    assert summary["entropy"] == pytest.approx(1)


def test_a_shuffle_gives_no_place_a_gate_that_nobody_knows() -> None:
    """Behind a ReLU a shuffled gate comes from places where it is known, or the output stays as it is."""
    x, gate = X.relu(), torch.full((3, 5, 6, 4), 0.5)
    y = x * gate
    now = correction_of("element", nn.Identity(), x, y)
    assert now.gate is not None
    assert now.gate.isnan().any()
    again = replaced(y, x, now, shuffled(now, SHUFFLED, "p", IMAGES))
    np.testing.assert_allclose(again, y, rtol=1e-5)  # all that is known of the gate is 0.5, wherever it goes
