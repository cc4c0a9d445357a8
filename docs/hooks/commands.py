"""The reference of the command line: a page for each command, from the help that typer makes of it."""

import re
from collections.abc import Iterator

import click
import typer

from dsnet_med.cli.app import app

# The page that says how a command is used, where it is not the command's own name.
PAGES = {
    "bundle": "bundle.md",
    "check": "data.md",
    "compare": "comparing.md",
    "datasets": "data.md",
    "evaluate": "metrics.md",
    "explain": "explaining.md",
    "export": "exporting.md",
    "import-checkpoint": "networks.md",
    "infer": "inference.md",
    "methods": "networks.md",
    "phantom": "data.md",
    "plan": "planning.md",
    "preprocess": "data.md",
    "quickstart": "index.md",
    "serve": "server.md",
    "train": "training.md",
    "verify": "comparing.md",
}
PROGRAM = "dsnet-med"
_SPECIAL = re.compile(r"([\\*_{}\[\]<>#|!])")


def pages() -> dict[str, str]:
    """The Markdown of every command's page, by its file name; `index.md` lists them."""
    commands = dict(walked(typer.main.get_command(app), PROGRAM))
    made = {f"{_slug(name)}.md": page(name, command) for name, command in commands.items()}
    rows = (
        f"| [`{name}`]({_slug(name)}.md) | {prose(first_sentence(command))} |"
        for name, command in commands.items()
    )
    listing = "\n".join(("| command | does |", "|---|---|", *rows))
    index = (
        f"# Command line\n\nWhat `{PROGRAM} COMMAND --help` says, one page each. Exit codes: 0 done; "
        "2 input or arguments are wrong; 1 some cases failed, the rest are finished; 130 interrupted; 143 "
        f"terminated. `DSNET_MED_DEBUG=1` shows tracebacks.\n\n{listing}\n"
    )
    return {"index.md": index, **made}


def walked(group: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below `group` with all words that call it."""
    for name, command in getattr(group, "commands", {}).items():
        if not command.hidden:
            yield f"{path} {name}", command
            yield from walked(command, f"{path} {name}")


def page(name: str, command: click.Command) -> str:
    """Usage, text, arguments and options of one command."""
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.get_params(context) if each.param_type_name == "option"]
    parts = [f"# {name.removeprefix(PROGRAM).strip()}", f"```\n{usage}\n```", described(command)]
    if word := PAGES.get(name.split()[1]):
        parts.append(f"How it is used: [{word.removesuffix('.md')}](../../{word}).")
    for title, params in (("Arguments", arguments), ("Options", options)):
        if params:
            rows = [row(each, context) for each in params]
            head = f"| {title.lower()[:-1]} | | default |\n|---|---|---|\n"
            parts.append(f"## {title}\n\n{head}" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def described(command: click.Command) -> str:
    """The paragraphs of a command's help."""
    text = (command.help or "").replace("\b", "").strip()
    return "\n\n".join(prose(" ".join(part.split())) for part in text.split("\n\n"))


def first_sentence(command: click.Command) -> str:
    """The first paragraph of a command's help, up to its first full stop."""
    paragraph = " ".join((command.help or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.?!])\s+(?=[A-Z])", paragraph)[0]


def row(parameter: click.Parameter, context: click.Context) -> str:
    """A line of a table: how a parameter is written, what it does, what holds without it."""
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts) if name)
    flag = getattr(parameter, "is_flag", False)
    if parameter.param_type_name == "argument":
        names = f"`{parameter.make_metavar(context)}`"
    elif not flag:
        names += f" `{parameter.make_metavar(context)}`"
    if parameter.required:
        default = "required"
    elif flag or parameter.default in (None, "", ()):
        default = ""
    else:
        default = f"`{parameter.default}`"
    text = getattr(parameter, "help", None) or ""
    return f"| {names.replace('|', '&#124;')} | {prose(text)} | {default} |"


def prose(text: str) -> str:
    """`text` as Markdown that shows it as it is; what it has in backticks stays code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part.replace("|", "&#124;") if part.startswith("`") else _SPECIAL.sub(r"\\\1", part) for part in parts
    )


def _slug(name: str) -> str:
    return "-".join(name.split()[1:])
