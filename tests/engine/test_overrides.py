"""What people set arrives, or one line says why it cannot; and what they write is what they mean."""

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from dsnet_med import resources
from dsnet_med.engine.overrides import (
    as_written,
    lay_over,
    load,
    load_over,
    parse_settings,
    references,
    run_ids,
)
from dsnet_med.errors import InputError
from dsnet_med.yaml_core import parse_yaml, read_yaml, yaml_text

TRAIN = load(resources.configs() / "train.yaml")
SMALL: dict[str, Any] = {
    "seed": 0,
    "rate": 0.1,
    "optimizer": {"_target_": "torch.optim.SGD", "params": [], "lr": "@rate"},
    "handlers": {"log": {"_target_": "builtins.dict", "every": 10}},
    "train": {"steps": [1, 2], "trainer": {"_target_": "builtins.dict", "a": "@handlers", "b": "@train#steps"}},
    "run": ["$@train#trainer", "$@optimizer"],
    "training": "%run",
}


def laid(*assignments: str, config: dict[str, Any] = SMALL) -> dict[str, Any]:
    changed = deepcopy(config)
    lay_over(changed, as_written(parse_settings(assignments)))
    return changed


# ---------------------------------------------------------------- YAML 1.2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[
            ("1e-3", 1e-3),
            ("1E-3", 1e-3),
            ("+1e-3", 1e-3),
            (".5e2", 50.0),
            ("1e3", 1e3),
            ("1.", 1.0),
            ("-2e1", -20.0),
        ],
        *[("012", 12), ("0o14", 12), ("0x1F", 31), ("-7", -7), ("+7", 7), ("00", 0)],
        *[(".inf", math.inf), ("-.INF", -math.inf), ("null", None), ("~", None), ("", None), ("None", None)],
        *[("true", True), ("False", False), ("[1e-3, off]", [1e-3, "off"]), ("{lr: 1e-3}", {"lr": 1e-3})],
        *[
            (text, text)
            for text in ("1_000", "1:30", "2024-01-01", "on", "off", "yes", "no", "none", "y", "0b1")
        ],
        *[(text, text) for text in ("1e", "e3", "1e-4x", "inf", "nan", "NULL_", "=", "--", "1.2.3", "1,5")],
    ],
)
def test_the_core_schema(text: str, value: object, tmp_path: Path) -> None:
    assert parse_yaml(text) == value and type(parse_yaml(text)) is type(value)
    (tmp_path / "a.yaml").write_text(f"a: {text}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": value}
    assert parse_settings([f"a={text}"]) == {"a": value}


def test_not_a_number_is_read() -> None:
    assert math.isnan(parse_yaml(".nan")) and math.isnan(parse_yaml(".NaN"))


AMBIGUOUS = ["1e-3", "0o7", "012", "1_0", "yes", "~", "None", "", "1:30", "=", "<<", "2024-01-01"]


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"))
    | st.sampled_from(AMBIGUOUS)
    | st.floats(allow_nan=False)
    | st.integers()
    | st.booleans()
)
def test_what_is_written_reads_the_same_by_both_yamls(value: object) -> None:
    text = yaml_text({"a": [value], "b": value})
    assert yaml.safe_load(text) == parse_yaml(text) == {"a": [value], "b": value}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [1", "line 1"),
        ("a: 1\nb: 2\na: 3", "line 1: two values for a"),
        ("- 1", "holds no settings"),
        ("", "holds no settings"),
        ("1: 2", "holds no settings"),
        ("a: !!python/object:os.system x", "line 1"),
    ],
)
def test_a_file_that_is_no_configuration(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path / "nowhere.yaml")


# ---------------------------------------------------------------- id=value


def test_parsing_settings() -> None:
    parsed = parse_settings(
        ["a=0.5", "b#c=[64, 64]", "d=true", " e = text ", "f=x=y", "g=a #b", "h=#1", "i=@a", "j=$b: c"]
    )
    assert parsed == {
        **{"a": 0.5, "b#c": [64, 64], "d": True, "e": "text", "f": "x=y"},
        **{"g": "a #b", "h": "#1", "i": "@a", "j": "$b: c"},
    }
    assert parse_settings(["dataset_dir=2024", "pretrained=true"]) == {
        "dataset_dir": "2024",
        "pretrained": True,
    }
    for bad in ("novalue", "=3", "a=[1", "a={b: 1, b: 2}"):
        with pytest.raises(InputError, match=r"wanted|valid"):
            parse_settings([bad])


@pytest.mark.parametrize(
    ("assignment", "where", "value"),
    [
        ("optimizer#lr=1e-3", "optimizer::lr", 1e-3),
        ("optimizer::nesterov=true", "optimizer::nesterov", True),
        ("+optimizer={lr: 2, momentum: 0.9}", "optimizer", {**SMALL["optimizer"], "lr": 2, "momentum": 0.9}),
        ("train#steps#1=5", "train::steps", [1, 5]),
        ("train#steps#+last=5", "train::steps", [1, 2, 5]),
        ("+train#steps=[5]", "train::steps", [1, 2, 5]),
        ("train#steps=[5]", "train::steps", [5]),
        ("handlers#+mine={_target_: builtins.dict}", "handlers::mine", {"_target_": "builtins.dict"}),
        ("+handlers={mine: null}", "handlers", {**SMALL["handlers"], "mine": None}),
        ("handlers#log=null", "handlers", {"log": None}),
        ("seed=1e3", "seed", 1000),
        ("rate=1", "rate", 1),
        ("rate=$1+1", "rate", "$1+1"),
        ("rate=@seed", "rate", "@seed"),
        ("optimizer#_disabled_=true", "optimizer::_disabled_", True),
        ("run=[$print(1)]", "run", ["$print(1)"]),
    ],
)
def test_what_can_be_set(assignment: str, where: str, value: object) -> None:
    assert ConfigParser(laid(assignment))[where] == value
    assert type(ConfigParser(laid(assignment))[where]) is type(value)


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        ("sed=1", "unknown setting 'sed': did you mean 'seed'"),
        ("optimizer#moment=1", "unknown setting of 'optimizer' 'moment': did you mean 'momentum'"),
        ("+optimizer={moment: 1}", "unknown setting of 'optimizer' 'moment': did you mean 'momentum'"),
        ("optimizer#+moment=1", "unknown setting of 'optimizer' 'moment'"),
        ("optimiser#lr=1", "did you mean 'optimizer'"),
        ("seed#a=1", "'seed' is a single value, which has no parts"),
        ("optimizer#momentum#a=1", "'optimizer#momentum' is a single value"),
        ("train#steps#2=1", "unknown setting of 'train#steps' '2': known: 0, 1"),
        ("handlers#lgo=null", "unknown setting of 'handlers' 'lgo': did you mean 'log'"),
        ("handlers#+log={}", "there already"),
        ("+train#handlers=[1]", "unknown setting of 'train' 'handlers'"),
        ("+train={handlers: [1]}", "unknown setting of 'train' 'handlers'"),
        ("train#hooks={a: 1}", "unknown setting of 'train' 'hooks'"),
        ("+mine=3", "unknown setting 'mine'"),
        ("+seed=3", "a \\+ adds a mapping to a mapping, or a list to a list"),
        ("+train#steps={a: 1}", "a \\+ adds"),
        ("seed=yes", "got seed=yes, wanted a number"),
        ("seed=true", "got seed=True, wanted a number"),
        ("seed=0.5", "got seed=0.5, wanted a whole number from 0"),
        ("seed=-1", "got seed=-1, wanted a whole number from 0"),
        ("rate=1_000", "wanted a number"),
        ("optimizer={lr: 1}", "wanted a mapping with a _target_; optimizer#... or \\+optimizer changes parts"),
        ("optimizer=sgd", "wanted a mapping with a _target_"),
        ("handlers=none", "wanted a mapping"),
        ("rate=@sede", "unknown reference '@sede': did you mean '@seed'"),
        ("handlers={}|train={}", "unknown reference '@train#"),
    ],
)
def test_what_cannot_be_set_is_refused(assignments: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        laid(*assignments.split("|"))


def test_a_new_id_is_taken_where_something_reads_it() -> None:
    config = laid("+twice=$2 * @rate", "optimizer#lr=@twice")
    assert ConfigParser(config).get_parsed_content("twice") == 0.2
    assert laid("again=[$print(1)]")["again"] == ["$print(1)"] and "again" in run_ids(laid("again=[$print(1)]"))
    assert laid("handlers#+mine=@train#steps")["handlers"]["mine"] == "@train#steps"


def test_a_function_that_takes_any_part_is_given_it() -> None:
    config = {"network": {"_target_": "dsnet_med.build_network", "method": "fcn"}, "run": ["$@network"]}
    changed = laid("network#backbone#layers=[1, 1]", "network#head={dropout: 0.0}", config=config)
    assert changed["network"] == {**config["network"], "backbone": {"layers": [1, 1]}, "head": {"dropout": 0.0}}
    with pytest.raises(InputError, match="'network#method' is a single value"):
        laid("network#method#a=1", config=config)


KINDS: dict[type, tuple[str, object]] = {
    bool: ("true", True),
    int: ("3", 3),
    float: ("2.5e-1", 0.25),
    list: ("[$1]", ["$1"]),
    str: ("mine", "mine"),
    dict: ("$dict()", "$dict()"),
    type(None): ("7", 7),
}


def test_no_setting_is_dropped() -> None:
    """Every id of train.yaml takes a value, or is refused by its name or that of a part that gets lost."""
    taken = 0
    for name in TRAIN:
        text, value = KINDS[type(TRAIN[name])]
        for typed, wanted in ((text, value), ("a word", "a word"), ("$len('ab')", "$len('ab')")):
            try:
                assert laid(f"{name}={typed}", config=TRAIN)[name] == wanted
                taken += 1
            except InputError as error:
                words = (
                    f"got {name}={typed}, wanted",
                    f"unknown reference '@{name}",
                    "got in_channels=1",
                )  # of task
                assert any(each in str(error) for each in words), (name, str(error))
    assert taken > 1.5 * len(TRAIN)


def test_what_can_be_run() -> None:
    assert run_ids(SMALL) == ["run", "training"]
    assert run_ids({**SMALL, "imports": ["$import os"], "initialize": ["$1"], "begin": "%initialize"}) == [
        "run",
        "training",
    ]
    assert (
        run_ids({"parts": ["$1", "$2"], "all": "@parts", "mixed": ["$1", 2], "empty": [], "text": "$1"}) == []
    )


def test_references_are_found_wherever_they_stand() -> None:
    config = {"a": ["@b", "$f(@c#d::0, @e)"], "g": {"h": "@#i", "j": "%k#l", "m": "%file.yaml#n", "o": "p@q"}}
    assert references(config) == ["b", "c#d#0", "e", "g#i", "k#l"]


# ---------------------------------------------------------------- files


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def test_files_are_merged_as_monai_merges_them(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", yaml_text(SMALL))
    over = write(
        tmp_path / "over.yaml",
        "optimizer#lr: 1e-3\n+train#steps: [7]\n+handlers: {mine: '@new'}\nnew: {a: 1}\n",
    )
    merged = load(base, over)
    assert merged["optimizer"]["lr"] == 1e-3 and merged["train"]["steps"] == [1, 2, 7]
    assert merged["handlers"] == {**SMALL["handlers"], "mine": "@new"}
    plain = ConfigParser.load_config_files([str(base), str(over)])
    assert merged == {**plain, "optimizer": {**plain["optimizer"], "lr": 1e-3}}  # which is text to PyYAML
    assert load_over(SMALL, over) == merged and "new" not in SMALL


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("iteration: 3", "unknown setting 'iteration'"),
        ("+validate#handlers: [1]", "unknown setting 'validate'"),
        ("+train#handlers: [1]", "unknown setting of 'train' 'handlers'"),
        ("a#b#0: 1", "unknown setting 'a'"),
        ("seed: many", "wanted a number"),
    ],
)
def test_a_file_that_sets_nothing_is_refused_by_name(content: str, words: str, tmp_path: Path) -> None:
    base, over = write(tmp_path / "base.yaml", yaml_text(SMALL)), write(tmp_path / "over.yaml", content)
    with pytest.raises(InputError, match=rf"over\.yaml: .*{words}"):
        load(base, over)


def test_a_file_may_drop_what_lies_under_it_and_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "configs", lambda: tmp_path)
    write(tmp_path / "base.yaml", yaml_text(SMALL))
    task = write(tmp_path / "task.yaml", "unread: 1\nwithout: [seed, handlers#log]\n")
    (tmp_path / "thin").mkdir()
    thin = write(tmp_path / "thin" / "train.yaml", "laid_over: [base.yaml, task.yaml]\nrate: 5e-1\n")
    merged = load(thin)
    assert merged == {
        **{k: v for k, v in SMALL.items() if k != "seed"},
        "handlers": {},
        "unread": 1,
        "rate": 0.5,
    }
    assert load(tmp_path / "base.yaml", task, thin)["rate"] == 0.5
