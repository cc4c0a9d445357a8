"""Every random number follows from (seed, draw): workers, resumption and processes change nothing."""

import gc
import hashlib
import os
import pickle
import random
import select
import signal
import threading
import time
import weakref
from contextlib import suppress

import monai
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.transforms import Compose, RandGaussianNoised, RandZoomd, SplitDimd
from torch import nn
from torch.utils.data import Dataset, get_worker_info
from torchvision.transforms import v2

from dsnet_med.engine.draws import Draw, Draws, Loader, SeedSteps, kept_generators, seed_of
from dsnet_med.errors import InputError, root_cause

SIZE, BATCH, STEPS = 7, 4, 6


class Ones(Dataset):
    """Items of ones, after `transform`."""

    def __init__(self, transform, size=SIZE):
        self.transform, self.size = transform, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.transform({"image": torch.ones(1, 16, 16), "index": int(index)})


class Globals:
    """Noise from every generator that a transform may use without owning one."""

    def __call__(self, item):
        noise = [torch.rand(2), torch.from_numpy(np.random.normal(size=2)), torch.tensor([random.random()] * 2)]
        return item | {"noise": torch.stack([each.double() for each in noise])}


def monai_noise():
    """MONAI's transforms, one with a generator of its own, as `set_random_state` gives it."""
    own = Compose([RandGaussianNoised("image", prob=1)]).set_random_state(3)
    return Compose([RandZoomd("image", prob=0.5), own])


def torchvision_noise(item):
    return item | {
        "image": v2.RandomErasing(p=0.8)(v2.RandomHorizontalFlip()(item["image"] * torch.rand(1, 16, 16)))
    }


TRANSFORMS = {"globals": Globals(), "monai": monai_noise(), "torchvision": torchvision_noise}


def draws(seed=5, **options):
    return Draws(SIZE, STEPS * BATCH, seed=seed, batch_size=BATCH, **options)


def loader(transform, workers, seed=5, sampler=None, **options):
    sampler = sampler or draws(seed)
    return Loader(Ones(transform), seed=seed, batch_size=BATCH, sampler=sampler, num_workers=workers, **options)


def numbers(batches):
    """All numbers of batches, in order."""
    return torch.cat([batch[key].double().flatten() for batch in batches for key in sorted(batch)])


# ---------------------------------------------------------------- numbers


def test_a_seed_is_that_of_its_purpose_on_any_machine():
    assert seed_of(0, "order", 1) == int(hashlib.blake2b(b"0/order/1", digest_size=8).hexdigest(), 16) >> 1
    assert (
        len({seed_of(seed, what, n) for seed in range(9) for what in ("order", "step") for n in range(99)})
        == 1782
    )
    assert all(0 <= seed_of(seed, "x") < 1 << 63 for seed in range(99))


def test_a_draw_is_an_index_with_a_number_in_any_process():
    draw = pickle.loads(pickle.dumps(Draw(3, 41)))
    assert ("a", "b", "c", "d")[draw] == "d"
    assert (type(draw), draw.number) == (Draw, 41)


# ---------------------------------------------------------------- order


def test_every_pass_holds_every_sample_once_in_an_order_of_its_own():
    drawn = list(Draws(SIZE, 3 * SIZE, seed=5, batch_size=1))
    passes = [tuple(drawn[start : start + SIZE]) for start in (0, SIZE, 2 * SIZE)]
    assert all(sorted(each) == list(range(SIZE)) for each in passes)
    assert len(set(passes)) == 3
    assert [draw.number for draw in drawn] == list(range(3 * SIZE))
    assert drawn != list(Draws(SIZE, 3 * SIZE, seed=6, batch_size=1))


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_a_start_at_any_step_goes_on_as_if_undisturbed(step):
    whole, resumed = list(draws()), draws()
    resumed.start(step)
    assert list(resumed) == whole[step * BATCH :]
    assert [draw.number for draw in resumed] == [draw.number for draw in whole[step * BATCH :]]
    assert len(resumed) == len(whole) - step * BATCH


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("weights", [None, [1.0, 0, 3, 2, 2, 1, 1]])
def test_the_shares_of_processes_tile_the_global_batches(world, weights):
    own = 12 // world
    shares = [
        list(Draws(SIZE, 60 // world, seed=5, batch_size=own, rank=rank, world=world, weights=weights))
        for rank in range(world)
    ]
    tiled = [d for step in range(5) for share in shares for d in share[step * own : (step + 1) * own]]
    whole = list(Draws(SIZE, 60, seed=5, batch_size=12, weights=weights))
    assert tiled == whole
    assert [draw.number for draw in tiled] == [draw.number for draw in whole] == list(range(60))


def test_weights_are_shares_of_the_draws():
    drawn = list(Draws(3, 6000, seed=0, batch_size=1, weights=[1.0, 0.0, 3.0]))
    assert [drawn.count(index) / 6000 for index in range(3)] == pytest.approx([0.25, 0, 0.75], abs=0.02)


@pytest.mark.parametrize(("size", "weights"), [(0, None), (3, [1.0]), (2, [0.0, 0.0]), (2, [1.0, -1.0])])
def test_nothing_to_draw_is_refused(size, weights):
    with pytest.raises(InputError, match=r"no samples|wanted one each"):
        Draws(size, 8, seed=0, batch_size=1, weights=weights)


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize("name", TRANSFORMS)
def test_samples_are_the_same_for_any_number_of_workers_and_after_a_resume(name):
    expected = numbers(loader(TRANSFORMS[name], 0))
    for workers in (1, 3):
        assert torch.equal(numbers(loader(TRANSFORMS[name], workers)), expected)
    batches = list(loader(TRANSFORMS[name], 0))
    for workers in (0, 2):
        sampler = draws()
        sampler.start(4)
        assert torch.equal(numbers(loader(TRANSFORMS[name], workers, sampler=sampler)), numbers(batches[4:]))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_no_two_samples_have_the_same_random_numbers(name):
    images = [
        tuple((batch["noise"] if name == "globals" else batch["image"])[place].flatten().tolist())
        for seed in (5, 6)
        for batch in loader(TRANSFORMS[name], 0, seed)
        for place in range(BATCH)
    ]
    assert len(set(images)) == len(images) == 2 * STEPS * BATCH


def test_threads_make_no_difference():
    def sums(item):
        return item | {"image": torch.rand(3, 400, 400).sum()[None], "threads": torch.get_num_threads()}

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    mine, workers = list(loader(sums, 0)), list(loader(sums, 1))
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert torch.equal(numbers(mine), numbers(workers))
    assert after == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_the_caller_s_generators_stay_as_they_were(workers):
    def noise():
        return [
            torch.rand(1).item(),
            np.random.normal(),
            random.random(),
            monai.transforms.Randomizable.R.random(),
        ]

    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    monai_state = monai.transforms.Randomizable.R.get_state()
    np.random.normal()  # NumPy has the second of a pair ready
    with kept_generators():
        expected = noise()
    monai.transforms.Randomizable.R.set_state(monai_state)
    list(loader(Compose([Globals(), RandZoomd("image", prob=0.5)]), workers))
    assert noise() == expected
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


# ---------------------------------------------------------------- steps


def test_a_step_s_numbers_are_those_of_its_iteration_and_rank():
    def run(first, rank):
        seen = {}
        dropout = nn.Dropout(0.5)
        engine = Engine(
            lambda engine, _: seen.update({engine.state.iteration: dropout(torch.ones(64)).tolist()})
        )
        SeedSteps(5, rank).attach(engine)
        engine.state.iteration = 0
        engine.load_state_dict({"iteration": first, "epoch_length": 6, "max_epochs": 1}) if first else None
        torch.manual_seed(first)
        engine.run(range(6 - first), max_epochs=1, epoch_length=6)
        return seen

    with kept_generators():
        whole, resumed, other = run(0, 0), run(4, 0), run(0, 1)
    assert sorted(resumed) == [5, 6]
    assert all(resumed[step] == whole[step] for step in resumed)
    assert len({tuple(each) for each in [*whole.values(), *other.values()]}) == 12


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_plain_tensors_and_whatever_else_items_hold(workers):
    def varied(item):
        return {
            "image": MetaTensor(item["image"]),
            "case": f"case {item['index']}",
            "place": item["index"],
            "none": 0.5,
        }

    batches = list(loader(varied, workers))
    assert all(type(batch["image"]) is torch.Tensor for batch in batches)
    assert batches[0]["image"].shape == (BATCH, 1, 16, 16)
    assert [batch["case"] for batch in batches] == [
        [f"case {i}" for i in batch["place"].tolist()] for batch in batches
    ]
    assert batches[0]["none"].tolist() == [0.5] * BATCH


@pytest.mark.parametrize("workers", [0, 1])
def test_items_that_stand_for_several_and_whole_items(workers):
    pieces = Compose(
        [lambda item: {"image": item["image"][:, :2]}, SplitDimd("image", dim=1, list_output=True)]
    )
    assert next(iter(loader(pieces, workers)))["image"].shape == (2 * BATCH, 1, 1, 16)
    whole = Loader(Ones(lambda item: item | {"slices": range(3)}), batch_size=None, num_workers=workers)
    assert [(item["index"], item["slices"], tuple(item["image"].shape)) for item in whole] == [
        (index, range(3), (1, 16, 16)) for index in range(SIZE)
    ]
    other = loader(lambda item: item["index"], workers, collate_fn=lambda items: [f"of {len(items)}"])
    assert next(iter(other)) == [f"of {BATCH}"]


def test_batches_that_were_given_out_keep_their_values_while_others_come():
    batches = list(loader(lambda item: {"image": torch.full((1, 300, 300), float(item["index"]))}, 2))
    expected = torch.tensor([list(draws())]).reshape(STEPS, BATCH).double()
    assert torch.equal(torch.stack([batch["image"].amax((1, 2, 3)).double() for batch in batches]), expected)
    assert torch.equal(torch.stack([batch["image"].amin((1, 2, 3)).double() for batch in batches]), expected)


def test_workers_are_kept_for_the_next_iterator():
    kept = loader(lambda item: {"worker": torch.tensor(get_worker_info().seed)}, 1)
    first, second = [{int(batch["worker"][0]) for batch in kept} for _ in range(2)]
    assert first == second


def test_signals_to_the_whole_group_are_not_a_worker_s_to_answer():
    """Ctrl-C and a scheduler's SIGTERM reach every process; the one that trains saves first."""
    signalled = loader(lambda item: {"worker": torch.tensor(os.getpid())}, 1, prefetch_factor=1)
    batches = iter(signalled)
    worker = int(next(batches)["worker"][0])
    os.system(f"kill -TERM {worker}; kill -INT {worker}")  # of another process than the worker's parent
    assert len(list(batches)) == STEPS - 1


def test_a_worker_that_starts_when_the_one_that_trains_is_gone_ends():
    """PyTorch's own look-out takes whoever it finds for its parent; such a process would stay for ever."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.register_at_fork(
            after_in_parent=lambda: os.kill(os.getpid(), signal.SIGKILL),
            after_in_child=lambda: time.sleep(0.5),
        )
        next(iter(loader(lambda item: item, 1)))
    os.close(there)  # and the worker has it, while it lives
    os.waitpid(child, 0)
    assert select.select([here], [], [], 600)[0] and os.read(here, 1) == b""
    os.close(here)


# ---------------------------------------------------------------- errors


def refuse(item):
    raise InputError(f"slice {item['index']} cannot be read")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_data_set_says_arrives_as_it_was_said(workers):
    def refuse(item):
        raise InputError(f"slice {item['index']} cannot be read")

    def damaged(item):
        return {}[item["index"]]

    first = int(next(iter(draws())))
    for transform, expected in (
        (Compose([refuse]), InputError(f"slice {first} cannot be read")),  # MONAI's own error hides it
        (damaged, KeyError(first)),
    ):
        with pytest.raises(Exception) as told:
            list(loader(transform, workers))
        cause = root_cause(told.value)
        assert (type(cause), str(cause)) == (type(expected), str(expected))
    assert not workers or type(told.value) is KeyError


class Unsendable(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
        self.held = threading.Lock()  # which no pickle takes, nor one that a library has taught more


def test_an_error_that_cannot_be_sent_keeps_its_words():
    def fail(item):
        raise Unsendable("this", "that")

    with pytest.raises(RuntimeError) as told:
        list(loader(fail, 1))
    assert str(told.value) == "Unsendable: this and that"


def test_an_error_keeps_no_loader_alive():
    """Else a later one's processes inherit it, and wait for processes that are not theirs."""

    def fail(item):
        raise RuntimeError("no")

    gc.disable()
    try:
        failing = loader(fail, 1)
        alive = weakref.ref(failing)
        with suppress(RuntimeError):
            list(failing)
        del failing
        assert alive() is None
    finally:
        gc.enable()


def test_a_killed_worker_is_one_line_with_advice():
    def kill(item):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(InputError, match=r"^a process that reads data was killed.*workers[^\n]*$"):
        list(loader(kill, 1))
