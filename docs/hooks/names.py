"""The reference of the Python names: for mkdocstrings, a page for each package with an `__all__`."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "dsnet_med"
# Modules without an `__all__` that users import from, and what of them.
FURTHER = {"dsnet_med.errors": ("InputError", "CasesFailedError")}


def pages() -> dict[str, str]:
    """The Markdown of every package's page, by its file name; `index.md` lists them."""
    packages = public() | {name: dict.fromkeys(names, name) for name, names in FURTHER.items()}
    rows = [
        f"| [`{package}`]({package}.md) | {', '.join(f'[`{name}`][{package}.{name}]' for name in names)} |"
        for package, names in packages.items()
    ]
    listing = "\n".join(("| package | names |", "|---|---|", *rows))
    index = (
        "# Python\n\nWhat stays where it is: the names that a package lists in its `__all__`. Everything "
        f"else may move.\n\n{listing}\n"
    )
    return {"index.md": index, **{f"{package}.md": page(package, names) for package, names in packages.items()}}


def public() -> dict[str, dict[str, str]]:
    """Of every package with an `__all__` its names, in that order, each with the module that defines it."""
    found = {}
    for file in sorted(PACKAGE.rglob("__init__.py")):
        package = ".".join(file.parent.relative_to(PACKAGE.parent).parts)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        origin = {
            alias.asname or alias.name: str(node.module)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                    names = [name for name in ast.literal_eval(value) if not name.startswith("__")]
                    found[package] = {name: origin.get(name, package) for name in names}
    return found


def page(package: str, names: dict[str, str]) -> str:
    """A package's docstring, then every name; after the last name of a module what the module says of them."""
    parts = [f"# {package}", without_name(package)]
    ordered = sorted(names, key=lambda name: list(names.values()).index(names[name]))
    for position, name in enumerate(ordered):
        parts.append(f"::: {package}.{name}")
        module = names[name]
        last = position + 1 == len(ordered) or names[ordered[position + 1]] != module
        if last and module not in (package, f"{package}.{name}") and paragraphs(module) > 1:
            file = f"{module.replace('.', '/')}.py"
            inner = without_name(module).replace("\n", "\n    ")
            parts.append(f'??? info "Paper, definitions, departures: {file}"\n\n    {inner}')
    return "\n\n".join(parts) + "\n"


def without_name(module: str) -> str:
    """The docstring of a module alone."""
    options = ("members", "show_root_heading", "show_root_toc_entry")
    return "\n      ".join((f"::: {module}\n    options:", *(f"{option}: false" for option in options)))


def paragraphs(module: str) -> int:
    """How many paragraphs the docstring of a module has."""
    file = PACKAGE.parent / f"{module.replace('.', '/')}.py"
    if not file.is_file():
        return 0
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return len(text.split("\n\n"))
