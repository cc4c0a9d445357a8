"""Every command of README and docs is one that its program takes, and is typed: here, or nightly."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from commands import (
    ROOT,
    RottenError,
    check_python,
    complete,
    files_of,
    pages,
    pieces,
    read,
    runs,
    typed,
    words_of,
)
from commands_typed import ANEW, World, beginning, counts, given, quick, said, script_of, typed_here
from scenes import ELSEWHERE, GIVEN, NOT_HERE, NOT_INSTALLED, PIECES, SCENES, TESTED_PAGES
from small import smaller
from typed import run

READ = ("--data", "--model", "--source", "--prediction", "--reference", "--cases", "--overlay", "--scores")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("page", pages())
def test_every_command_is_one_that_its_program_takes(page: str) -> None:
    for piece in pieces(page):
        if piece.kind == "python":
            check_python(piece.text, piece)
        elif piece.kind == "shell":
            assert complete(piece) or not piece.block, f"{piece}: something is left out: {piece.text}"


@pytest.mark.parametrize("page", [page for page in pages() if typed_here(page)])
def test_what_a_command_reads_is_made_before_or_given(page: str) -> None:
    there = [*given(page), *files_of(page)]
    for piece in typed_here(page):
        if piece.kind == "shell":
            for words in words_of(said(piece)):
                named = [] if words[1:2] == ["phantom"] else values_of(words, *READ)
                lost = [name for name in named if not _is_there(name, [*there, *words])]
                assert not lost, (
                    f"{piece}: what is {lost[0]}? Say it in GIVEN or SCENES of tests/docs/scenes.py"
                )
                there += words
        else:
            there += [piece.text]


def values_of(words: list[str], *options: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words[:-1]) if word in options]


def _is_there(name: str, there: list[str]) -> bool:
    """Whether a name, or the folder that it lies in, is one of those; a pattern is no name."""
    parents = [name, *map(str, Path(name).parents)][:-1] or [name]
    seen = Counter(there)
    return "*" in name or name.startswith("hf:") or any(seen[each] > (each == name) for each in parents)


def test_settings_that_commands_name_are_there(world: World) -> None:
    from dsnet_med.engine.compose import compose_train
    from dsnet_med.engine.overrides import parse_settings

    store, tried = world.make("store"), 0
    for piece in (each for page in pages() for each in pieces(page) if each.kind == "shell" and runs(each)):
        for words in words_of(piece.text):
            if words[0] != "dsnet-med" or words[1] != "train" or "--method" not in words:
                continue
            (method,), settings = values_of(words, "--method"), parse_settings(values_of(words, "--set"))
            settings.pop("size", None)  # must fit the volumes
            overlays = [file for name in values_of(words, "--overlay") if (file := ROOT / name).is_file()]
            compose_train(method, ROOT if "/" in method else store, settings, overlays)
            tried += 1
    assert tried > 5


def test_every_exception_has_its_command() -> None:
    texts = [each for page in pages() for each in pieces(page) if each.kind != "file"]
    used = {beginning(each.text, {**ELSEWHERE, **NOT_HERE}) for each in texts}
    assert {*ELSEWHERE, *NOT_HERE} - used == set()
    assert all(
        any(f"import {name}" in each.text or f"from {name}" in each.text for each in texts)
        for name in NOT_INSTALLED
    )
    assert {*SCENES, *TESTED_PAGES} <= set(pages())
    assert {*GIVEN.values(), *(made for scene in SCENES.values() for made in scene.has.values())} <= set(PIECES)
    assert len(NOT_HERE) < 20


@pytest.mark.parametrize("typist", sorted({*ELSEWHERE.values(), *TESTED_PAGES.values()}))
def test_who_types_what_is_typed_elsewhere_is_there(typist: str) -> None:
    file, _, step = typist.partition(" ")
    text = (ROOT / file).read_text(encoding="utf-8")
    assert f"run_{step}()" in text if step else text


def test_scenes_prepare_only_what_begins_a_command() -> None:
    for page, scene in SCENES.items():
        for start in scene.before:
            assert any(beginning(each.text, {start: ""}) for each in typed_here(page)), (
                f"{page}: no command: {start}"
            )


def test_short_commands_of_every_page_work(world: World) -> None:
    """One folder for a page, as for the others; a command that several pages show is typed once."""
    seen: set[str] = set()
    for page in pages():
        wanted = [piece for piece in typed_here(page) if quick(piece) and said(piece) not in seen]
        if wanted:
            seen |= {said(piece) for piece in wanted}
            folder = world.scene(page, of=wanted)
            for piece in wanted:
                _, *words = words_of(said(piece))[0]
                if words[0] in ANEW and "--out" in words:
                    shutil.rmtree(folder / words[words.index("--out") + 1], ignore_errors=True)
                done = run(*smaller(words), cwd=folder, XDG_CONFIG_HOME=str(world.folder / "config"))
                assert done.returncode == 0, f"{piece}: {piece.text}\n{done.stderr}"
    assert len(seen) > 8


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in pages() if typed_here(page)])
def test_every_command_of_a_page_works(
    page: str, tmp_path_factory: pytest.TempPathFactory, nightly: World
) -> None:
    nightly.type(page)


@pytest.fixture(scope="module")
def nightly(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("nightly"))


# ---------------------------------------------------------------- the collector itself


@pytest.mark.parametrize(
    "block",
    [
        "```\ndsnet-med trian --out x\n```",
        "```\ndsnet-med train --method fcn --dat STORE --out RUN\n```",
        "```\ndsnet-med train --method fcn --data STORE --out RUN --iterations many\n```",
        "```bash\ncd x && dsnet-med plan STORE --memry 8\n```",
        "```\nfrobnicate x\n```",
        "```\nmonai bundle rum training --config_file x\n```",
        "```\npython -m monai.bundle init_bundle OUT --weights x\n```",
        "```\npython benchmarks/nothing.py\n```",
        "```\npip install 'dsnet-med[everything]'\n```",
        "```\n.ci/run rests\n```",
        "Type `dsnet-med infer --modle RUN ...` there.",
        "```python\nfrom dsnet_med import Predictr\n```",
        "```python\nfor\n```",
        "```rust\nx\n```",
    ],
)
def test_a_rotten_command_is_seen(block: str) -> None:
    with pytest.raises(RottenError):
        for piece in read(block, "README.md"):
            if piece.kind == "python":
                check_python(piece.text, piece)
            else:
                complete(piece)


def test_a_page_is_read_as_a_reader_does() -> None:
    page = "\n".join(
        [
            "Run `dsnet-med methods` or `dsnet-med train --method <id>`.",
            "<!-- `dsnet-med hidden` -->",
            "```",
            "dsnet-med check STORE   # a `comment`",
            "dsnet-med train --method fcn --data STORE \\",
            "    --set 'a#b=c' --out RUN  # two lines",
            "```",
            "  ```yaml",
            "  # small.yaml",
            "  width: 0.5",
            "  ```",
            "```python",
            "# tool.py: python tool.py A > b",
            "import os",
            "```",
        ]
    )
    found = [(each.line, each.kind, each.text.strip().split("\n")[0], each.name) for each in read(page, "x.md")]
    assert found == [
        (1, "shell", "dsnet-med methods", ""),
        (1, "shell", "dsnet-med train --method <id>", ""),
        (4, "shell", "dsnet-med check STORE", ""),
        (5, "shell", "dsnet-med train --method fcn --data STORE --set 'a#b=c' --out RUN", ""),
        (8, "file", "# small.yaml", "small.yaml"),
        (12, "file", "# tool.py: python tool.py A > b", "tool.py"),
        (12, "shell", "python tool.py A > b", ""),
        (12, "python", "# tool.py: python tool.py A > b", "tool.py"),
    ]
    assert [complete(each) for each in read(page, "x.md")[:2]] == [True, False]


def test_a_line_falls_into_its_commands() -> None:
    assert words_of("A=1 b c && d '| e' | f > g; h < i") == [["b", "c"], ["d", "| e"], ["f"], ["h"]]
    assert list(typed("a \\\n b # c\n\n# d\ne '# f' g#h")) == [(0, "a b"), (4, "e '# f' g#h")]


def test_a_command_that_fails_is_named(world: World) -> None:
    (piece,) = read("```\ndsnet-med check nowhere\n```", "README.md")
    with pytest.raises(RottenError, match=r"README.md:2: dsnet-med check nowhere: exit code 2"):
        world.run("\n".join(script_of(piece)), world.folder)


def test_nothing_is_lost_between_the_lists() -> None:
    of_pages = [each for page in pages() for each in pieces(page) if each.kind != "file"]
    assert sum(counts().values()) == len(of_pages)
    assert counts()["nightly"] > 50
