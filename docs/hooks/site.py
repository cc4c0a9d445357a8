"""What MkDocs does beside rendering docs/: reference pages, made while it builds, and links out of docs/."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import commands  # noqa: E402
import names  # noqa: E402

log = get_plugin_logger("site")
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Source"]
TUTORIALS = ("researcher-plugin", "engineer-dicom", "own-data", "reviewer")  # in this order
_LINK = re.compile(r"(?<!\\)\]\((\.\.?/[^)#\s]*)(#[^)\s]*)?\)")


def generated() -> dict[str, str]:
    """The Markdown of all pages that are made here, by their path in docs/."""
    folders = {"reference/commands/": commands.pages(), "reference/python/": names.pages()}
    return {folder + name: text for folder, made in folders.items() for name, text in made.items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Folders in `nav` stand for the pages in them; one without a page is left out."""
    docs = Path(config.docs_dir)
    results = [docs / "results" / "index.md", *sorted(docs.glob("results/*/index.md"))]
    tutorials = [docs / "tutorials" / f"{name}.md" for name in TUTORIALS]
    written = [each for each in (*results, *tutorials) if each.is_file()]
    listed = [*generated(), *(each.relative_to(docs).as_posix() for each in written)]
    entries = [unfolded(entry, listed) for entry in config.nav or []]
    config.nav = [entry for entry in entries if [] not in entry.values()]
    return config


def unfolded(entry: Any, listed: list[str]) -> Any:
    """`entry` of a nav, and what is below it, with `folder/` replaced by the pages of `listed` in it."""
    if isinstance(entry, dict):
        return {
            title: unfolded([below] if str(below).endswith("/") else below, listed)
            for title, below in entry.items()
        }
    if not isinstance(entry, list):
        return entry
    flat = []
    for each in entry:
        is_folder = isinstance(each, str) and each.endswith("/")
        flat += [name for name in listed if name.startswith(each)] if is_folder else [unfolded(each, listed)]
    return flat


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The generated pages beside those of docs/."""
    for name, text in generated().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """A link to a file of the checkout outside docs/ leads to the repository's page of it."""
    docs = Path(config.docs_dir)
    here = (docs / page.file.src_uri).parent

    def to_repository(match: re.Match[str]) -> str:
        target = (here / match[1]).resolve()
        if target.is_relative_to(docs):
            return match[0]
        if not target.exists():
            log.warning("%s links to %s, which is not there", page.file.src_uri, match[1])
        kind = "tree" if target.is_dir() else "blob"
        return f"]({SOURCE}/{kind}/main/{target.relative_to(ROOT)}{match[2] or ''})"

    return _LINK.sub(to_repository, markdown)
