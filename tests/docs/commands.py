"""Every command that README and docs show: found, and read as the program that is named would read it.

A fenced block without a language, or of a shell, is commands; a block of Python is run as it stands. A block
with a line `# NAME.ext` at its top is the file NAME.ext. Code inside a sentence that begins with a program is a
mention where something is left out (`...`, an option that must be given), and else a command like the others.
"""

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import dedent

import click
import typer
from scenes import NOT_INSTALLED, SAYS, SCENES, Scene

from dsnet_med.cli.app import app
from dsnet_med.errors import InputError

ROOT = Path(__file__).parents[2]
SHELLS = ("", "bash", "sh", "shell", "console")
PLAIN = ("text", "yaml", "json", "csv", "toml", "ini", "nginx", "html", "css", "javascript", "mermaid", "caddy")
# Programs that others make: that they exist is all that is known of them here.
OTHERS = (
    "cd",
    "chmod",
    "cp",
    "curl",
    "git",
    "hf",
    "mkdir",
    "mlflow",
    "monailabel",
    "mv",
    "openssl",
    "rm",
    "sbatch",
)
STARTERS = ("torchrun", "srun", "uv", ".uv/bin/uv")  # which start another program
OPEN = ("...", "--id", "ID")  # words of a synopsis for which nothing stands
_ALONE = ("methods", "datasets", "quickstart")  # commands that are something by themselves
_NAME = r"# ([\w-]+\.\w+)(?:: (.*))?"  # and a command that runs the file
_FENCE = re.compile(r"( *)(`{3,}|~{3,})[ \t]*([\w+-]*)[^`\n]*\n(.*?)^\1\2`*~*\s*$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)(`{1,2})(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_NO_COMMANDS = ("CHANGELOG.md", "SECURITY.md")


class RottenError(Exception):
    """A command that its program does not take as it is shown."""


@dataclass(frozen=True)
class Piece:
    """Something that a page shows: the text of `kind` "shell" (one command), "python" or "file"."""

    page: str
    line: int
    kind: str
    text: str
    block: int = 0  # the line of its block; 0 inside a sentence
    name: str = ""  # of the file that it is in

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """The pages that show commands, by their paths."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "data_prep").rglob("*.md")]
    return sorted(str(file.relative_to(ROOT)) for file in found if file.name not in _NO_COMMANDS)


@cache
def pieces(page: str) -> tuple[Piece, ...]:
    """What `page` shows, in its order."""
    return read((ROOT / page).read_text(encoding="utf-8"), page)


def read(text: str, page: str) -> tuple[Piece, ...]:
    """What a page of this text shows, in its order."""
    found: list[Piece] = []

    def blank(match: re.Match[str]) -> str:
        line = text.count("\n", 0, match.start()) + 1
        found.extend(_of_block(page, line, match[3], dedent(match[4])))
        return re.sub(r"[^\n]", " ", match[0])

    rest = re.sub(r"<!--.*?-->", lambda match: re.sub(r"[^\n]", " ", match[0]), text, flags=re.DOTALL)
    rest = _FENCE.sub(blank, rest)
    for match in _SPAN.finditer(rest):
        words = " ".join(match[2].split())
        if (words.split(" ", 1)[0] in _programs() or _ASSIGNED.match(words)) and " " in words:
            found.append(Piece(page, rest.count("\n", 0, match.start()) + 1, "shell", words))
    return tuple(sorted(found, key=lambda piece: piece.line))


_ASSIGNED = re.compile(r"[A-Z_]+=\S+ [a-z.]")


def _programs() -> tuple[str, ...]:
    own = ("dsnet-med", "monai", "python", "pip", "pytest", ".ci/run", "source")
    return (*own, *STARTERS, *OTHERS)


def _of_block(page: str, line: int, language: str, text: str) -> Iterator[Piece]:
    head = text.split("\n")[:2]
    match = next((match for each in head if (match := re.fullmatch(_NAME, each.strip()))), None)
    name = match[1] if match else ""
    if match:
        yield Piece(page, line, "file", text, line, name)
        if match[2]:
            yield Piece(page, line, "shell", match[2], line)
    if language in SHELLS:
        for offset, command in typed(text):
            yield Piece(page, line + 1 + offset, "shell", command, line, name)
    elif language == "python":
        yield Piece(page, line, "python", text, line, name)
    elif language not in PLAIN:
        raise RottenError(f"{page}:{line}: a block of '{language}': wanted python, a shell or one of {PLAIN}")


def typed(text: str) -> Iterator[tuple[int, str]]:
    """(line, command) of a block: lines that go on are joined, comments taken away."""
    begun, start = "", 0
    for number, line in enumerate(text.split("\n")):
        start = start if begun else number
        words = bare(line).strip()
        if words.endswith("\\"):
            begun += f"{words[:-1].rstrip()} "
        elif begun + words:
            yield start, begun + words
            begun = ""


def bare(line: str) -> str:
    """A line of a shell without its comment."""
    quote = ""
    for place, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and (place == 0 or line[place - 1].isspace()):
            return line[:place]
    return line


# ---------------------------------------------------------------- what a program says of them


def words_of(text: str) -> list[list[str]]:
    """The commands, each as its words, that a line is made of: `a && b | c > file` has three."""
    text = re.sub(r"<(\w+)>", r"\1", text)  # <id> is what a reader puts there
    text = re.sub(r"\{(\w+)(,\w+)+\}", r"\1", text)  # one of several
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    found: list[list[str]] = [[]]
    to_file = False
    for word in lexer:
        if to_file:
            to_file = False
        elif set(word) <= set("<>"):
            to_file = True
        elif set(word) <= set("();|&"):
            found.append([])
        elif found[-1] or not re.fullmatch(r"\w+=.*", word):  # a variable of the command
            found[-1].append(word)
    return [words for words in found if words]


def complete(piece: Piece) -> bool:
    """Whether a command has all that its program asks for. Raises RottenError for what that does not take."""
    try:
        taken = [_taken(words, piece) for words in words_of(piece.text)]
    except (InputError, click.UsageError) as error:
        raise RottenError(f"{piece}: {piece.text}: {getattr(error, 'message', error)}") from error
    return all(taken)


def _taken(words: list[str], piece: Piece) -> bool:
    program, *rest = words
    if program in OTHERS:
        return not set(words) & set(OPEN)
    if program not in _programs():
        raise InputError(f"no known program {program!r}; a block that is no commands is a ```text block")
    left_out = bool(set(rest) & set(OPEN))
    rest = [word for word in rest if word not in OPEN]
    takes = {"dsnet-med": _dsnet_med, "monai": _monai, "python": _python, "pytest": _pytest, "pip": _pip}
    takes |= {".ci/run": _ci, "source": lambda words, _: bool(words), **dict.fromkeys(STARTERS, _starter)}
    return takes[program](rest, piece) and not left_out


def _dsnet_med(words: Sequence[str], piece: Piece) -> bool:
    """As typer reads it, values and all; nothing is done."""
    group = typer.main.get_command(app)
    if words[:1] == ["bundle"]:
        return _monai(words, piece)
    if not words or words[0].startswith("-"):
        group.make_context("dsnet-med", list(words) or ["--help"], resilient_parsing=True)
        return bool(words)
    name, *rest = words
    if name not in group.commands:
        raise InputError(f"dsnet-med has no command {name!r}")
    if not rest or "--help" in rest:
        return bool(rest) or name in _ALONE
    try:
        group.commands[name].make_context(name, [says(piece.page).get(word, word) for word in rest])
    except click.MissingParameter:
        return False
    return True


def says(page: str) -> dict[str, str]:
    """What words of a synopsis stand for on a page."""
    return {**SAYS, **SCENES.get(page, Scene()).says}


def _monai(words: Sequence[str], piece: Piece) -> bool:
    if words[:1] != ["bundle"]:
        raise InputError(f"got {words[:1]}, wanted bundle")
    from monai.bundle import __main__ as functions

    if len(words) < 2:
        return False
    function = getattr(functions, words[1], None)
    if not inspect.isfunction(function):
        raise InputError(f"monai.bundle has no command {words[1]!r}")
    takes = inspect.signature(function).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        for word in words[2:]:
            if word.startswith("--") and word[2:].partition("=")[0] not in takes:
                raise InputError(f"monai.bundle {words[1]} has no option {word}")
    return len(words) > 2


def _python(words: Sequence[str], piece: Piece) -> bool:
    if words[:2] == ["-m", "monai.bundle"]:
        return _monai(["bundle", *words[2:]], piece)
    if words[0] == "-m":
        importlib.import_module(words[1])
    elif words[0] == "-c":
        check_python(words[1], piece)
    elif words[0] not in files_of(piece.page):
        script = ROOT / words[0]
        if not script.is_file():
            raise InputError(f"no script {words[0]}, here or on the page")
        text = script.read_text(encoding="utf-8")
        options = [word.partition("=")[0] for word in words[1:] if word.startswith("--")]
        if lost := [each for each in options if f'"{each}"' not in text]:
            raise InputError(f"{words[0]} has no option {lost[0]}")
    return True


def _pytest(words: Sequence[str], piece: Piece) -> bool:
    lost = [word for word in words if word.startswith("tests") and not (ROOT / word).exists()]
    if lost:
        raise InputError(f"there is no {lost[0]}")
    return True


def _pip(words: Sequence[str], piece: Piece) -> bool:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    for name in re.findall(r"(?:^|\s)(?:dsnet-med|\.)\[([\w,-]+)\]", " ".join(words)):
        if lost := set(name.split(",")) - set(extras):
            raise InputError(f"there is no extra {lost.pop()}")
    return len(words) > 1


def _ci(words: Sequence[str], piece: Piece) -> bool:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    if lost := [word for word in words if f"\nrun_{word}()" not in text]:
        raise InputError(f".ci/run has no step {lost[0]}")
    return True


def _starter(words: Sequence[str], piece: Piece) -> bool:
    """What another program starts: from its name on, or from `-m`."""
    for place, word in enumerate(words):
        if word == "-m":
            return _taken(["python", *words[place:]], piece)
        if word in ("dsnet-med", "monai", "python", "pytest"):
            return _taken(list(words[place:]), piece)
    return True


def files_of(page: str) -> set[str]:
    """The files that a page shows, by their names."""
    return {piece.name for piece in pieces(page) if piece.kind == "file"}


def check_python(text: str, piece: Piece) -> None:
    """Raise RottenError unless the text compiles, and what it imports is there."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise RottenError(f"{piece}: {error}") from error
    own = {Path(name).stem for name in files_of(piece.page)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            wanted = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for module, name in wanted:
            if module not in own and module not in NOT_INSTALLED:
                _imported(module, name, piece)


def _imported(module: str, name: str | None, piece: Piece) -> None:
    try:
        found = importlib.import_module(module)
        if name and not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")
    except ImportError as error:
        raise RottenError(f"{piece}: {error}") from error


# ---------------------------------------------------------------- what becomes of them


def runs(piece: Piece) -> bool:
    """Whether a piece is something to be typed, and not a file or a mention."""
    if piece.kind == "file" or piece.name:
        return False
    return piece.kind == "python" or bool(piece.block) or complete(piece)
