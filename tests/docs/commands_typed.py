"""The commands of a page, typed in a folder that holds what the page takes for granted (scenes.py).

`python tests/docs/commands_typed.py` prints how many there are.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from commands import ROOT, Piece, RottenError, pages, pieces, runs, says, words_of
from scenes import BEFORE, ELSEWHERE, GIVEN, NOT_HERE, PIECES, SCENES, TESTED_PAGES, Scene

HERE = Path(__file__).parent
QUICK = ("--version", "--help", "methods", "datasets", "phantom", "preprocess", "check")
ANEW = (
    "phantom",
    "train",
    "infer",
    "evaluate",
    "explain",
    "export",
)  # typed again, they are another way to do the same
MINUTES = 20


def scene_of(page: str) -> Scene:
    return SCENES.get(page, Scene())


def beginning(text: str, table: dict[str, str]) -> str:
    """The key of a table with which a command begins, or nothing."""
    plain = " ".join(text.split())
    return max((key for key in table if plain.startswith(key)), key=len, default="")


def where(piece: Piece) -> str:
    """ "here", "elsewhere" or "not here": what becomes of a command."""
    if piece.page in TESTED_PAGES or beginning(piece.text, ELSEWHERE):
        return "elsewhere"
    return "not here" if piece.name or beginning(piece.text, NOT_HERE) else "here"


def quick(piece: Piece) -> bool:
    """Whether a command is typed in the ordinary tests: it takes a second or so."""
    words = words_of(piece.text) if piece.kind == "shell" else []
    return where(piece) == "here" and len(words) == 1 and words[0][0] == "dsnet-med" and words[0][1] in QUICK


def typed_here(page: str) -> list[Piece]:
    return [piece for piece in pieces(page) if runs(piece) and where(piece) == "here"]


def given(page: str, of: Sequence[Piece] | None = None) -> dict[str, str]:
    """The names that a page, or some of it, uses before a command has made them: what pieces they stand for."""
    texts = [said(each) for each in (typed_here(page) if of is None else of)]
    found = {}
    for name, made_of in GIVEN.items():
        used = rf"(?<![\w/.-]){re.escape(name)}(?![\w.-])"
        first = next((text for text in texts if re.search(used, text)), "")
        if first and not re.search(rf"--out {used}", first):
            found[name] = made_of
    return found | (dict(scene_of(page).has) if of is None else {})


class World:
    """The pieces, each made when it is first asked for, and the folders of the pages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pieces").mkdir()
        self._programs()

    def _programs(self) -> None:
        """`dsnet-med` and `monai` with small settings, and `made`."""
        programs = {name: f'"{HERE / "small.py"}" {name}' for name in ("dsnet-med", "monai")}
        programs["made"] = f'"{HERE / "stand_ins.py"}"'
        (self.folder / "bin").mkdir()
        for name, script in programs.items():
            file = self.folder / "bin" / name
            file.write_text(f'#!/bin/sh\nexec "{sys.executable}" {script} "$@"\n')
            file.chmod(0o755)

    def environment(self) -> dict[str, str]:
        path = [str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        own = {"PATH": os.pathsep.join(path), "XDG_CONFIG_HOME": str(self.folder / "config")}
        own |= {"HF_HUB_OFFLINE": "1", "ROOT": str(ROOT), "DATA": str(ROOT / "tests" / "data")}
        return {**os.environ, "OMP_NUM_THREADS": "1", **own, **{each: str(self.place(each)) for each in PIECES}}

    def place(self, piece: str) -> Path:
        return self.folder / "pieces" / piece

    def make(self, piece: str) -> Path:
        """Where a piece lies, which is made if it is not there."""
        if not (place := self.place(piece)).exists():
            for other in re.findall(r"\$([a-z_]+)", PIECES[piece]):
                self.make(other)
            self.run(PIECES[piece], place.parent)
        return place

    def scene(self, page: str, of: Sequence[Piece] | None = None) -> Path:
        """A new folder with what the page, or some of it, takes for granted."""
        folder = self.folder / page.replace("/", "_")
        folder.mkdir()
        for name, made_of in given(page, of).items():
            self._copy(self.make(made_of), folder / name)
        before = (*BEFORE.values(), *scene_of(page).before.values()) if of is None else ()
        for other in {each for text in before for each in re.findall(r"\$([a-z_]+)", text)}:
            self.make(other)
        for piece in pieces(page):
            if piece.kind == "file":
                (folder / piece.name).write_text(piece.text, encoding="utf-8")
        return folder

    def _copy(self, source: Path, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, to, dirs_exist_ok=True)
        else:
            shutil.copy(source, to)

    def run(self, script: str, folder: Path) -> None:
        """Raise RottenError where a script of bash fails."""
        with (self.folder / "log").open("w+b") as log:
            done = subprocess.run(
                ["bash", "-e", "-o", "pipefail", "-c", script],
                cwd=folder,
                env={**self.environment(), "SCENE": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
                timeout=MINUTES * 60,
            )
            log.seek(0)
            if done.returncode:
                said = log.read().decode(errors="replace")
                at = re.findall(r"^== (.*)$", said, re.MULTILINE)
                raise RottenError(f"{at[-1] if at else script}: exit code {done.returncode}\n{said[-3000:]}")

    def type(self, page: str) -> None:
        """Type all commands of a page, block by block, each sentence by itself."""
        folder = self.scene(page)
        blocks: dict[int, list[Piece]] = {}
        for piece in typed_here(page):
            blocks.setdefault(piece.block or -piece.line, []).append(piece)
        for block in blocks.values():
            self.run("\n".join(line for piece in block for line in script_of(piece)), folder)


def script_of(piece: Piece) -> list[str]:
    """What bash is given for a piece: what stands before it, a line that says where we are, and itself."""
    scene = scene_of(piece.page)
    text = said(piece)
    befores = {**BEFORE, **scene.before}
    before = beginning(piece.text, befores)
    lines = [f"echo {shlex.quote(f'== {piece}: ' + text.splitlines()[0])}"]
    lines += [befores[before]] if before else []
    if piece.kind == "python":
        return [*lines, f"python -c {shlex.quote(scene.python + chr(10) + text)}"]
    words = words_of(text)[0]
    if words[:2] == ["dsnet-med", "serve"]:
        return [*lines, *_served(text, words)]
    own = words[words.index("dsnet-med") :] if "dsnet-med" in words else []
    if own[1:2] and own[1] in ANEW and "--resume" not in own and "--out" in own:
        lines.append(f"rm -rf {shlex.quote(own[own.index('--out') + 1])}")
    return [*lines, text]


def said(piece: Piece) -> str:
    """What is typed: the text, with what stands for words of a synopsis."""
    text = piece.text
    for word, meant in says(piece.page).items():
        text = re.sub(rf"(?<![\w/.-]){re.escape(word)}(?![\w/.-])", meant, text)
    return text


def _served(text: str, words: list[str]) -> list[str]:
    """A server, to the end of its block, that must answer."""
    port = words[words.index("--port") + 1] if "--port" in words else "8000"
    health = f"curl -sf http://127.0.0.1:{port}/health >/dev/null"
    wait = f"for _ in $(seq 240); do {health} && break; kill -0 $server; sleep 0.5; done; {health}"
    return [f"{text} & server=$!", "trap 'kill $server' EXIT", wait]


# ---------------------------------------------------------------- how many there are


@cache
def counts() -> dict[str, int]:
    """How many commands are typed in each run, nightly, by other tests, and not at all; and mentions."""
    found = dict.fromkeys(("quick", "nightly", "elsewhere", "not here", "mentions"), 0)
    for page in pages():
        for piece in pieces(page):
            if piece.kind == "file":
                continue
            if not piece.name and not runs(piece):
                found["mentions"] += 1
            elif where(piece) == "here":
                found["quick" if quick(piece) else "nightly"] += 1
            else:
                found[where(piece)] += 1
    return found


if __name__ == "__main__":
    print(counts())  # noqa: T201
