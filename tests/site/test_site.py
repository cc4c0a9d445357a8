"""The documentation as a site: built as a reader would, read page by page, and searched in a browser."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import typer

from dsnet_med.cli.app import app

pytestmark = pytest.mark.slow  # a step of its own in .ci/run

ROOT = Path(__file__).parents[2]
LOADED = {"img": "src", "script": "src", "source": "src", "iframe": "src", "video": "src", "object": "data"}
# Every element of HTML that a page may have: <task> out of a docstring is none.
KNOWN = set(
    re.findall(
        r"\w+",
        """
        a abbr article aside b blockquote body br button caption circle cite code col colgroup
        defs del details div dialog dd dl dt em ellipse figcaption figure footer form g h1 h2 h3
        h4 h5 h6 head header hr html i iframe img input kbd label legend li line link main mark
        meta nav noscript ol option p path picture polygon polyline pre rect s script section
        select small span strong style sub summary sup svg symbol table tbody td text textarea
        tfoot th thead time title tr tspan ul use var video wbr
        """,
    )
)


class Read(HTMLParser):
    """What one page names: its anchors, its links, what it loads, its elements."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.elements: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.elements.add(tag)
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(values["href"])
        elif values.get(LOADED.get(tag, "")):
            self.loaded.append(values[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as README and CONTRIBUTING say, with nothing to reach outside."""
    out = tmp_path_factory.mktemp("site") / "site"
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | nowhere, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def read(site: Path) -> dict[Path, Read]:
    """Every page of the site. The page for addresses that do not exist has no place of its own."""
    return {file: Read(file) for file in sorted(site.rglob("*.html")) if file.name != "404.html"}


@pytest.fixture(scope="module")
def found(site: Path) -> dict[str, set[str]]:
    """Where the search finds a title: title -> addresses."""
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    places: dict[str, set[str]] = {}
    for entry in index["docs"]:
        places.setdefault(re.sub(r"<[^>]*>", "", entry["title"]).strip(), set()).add(entry["location"])
    return places


def local(page: Path, address: str) -> tuple[Path, str] | None:
    """The file that `address`, as `page` writes it, leads to, and the anchor there; None for another host's."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None
    return (page if not parts.path else (page.parent / unquote(parts.path)).resolve()), unquote(parts.fragment)


def test_every_link_and_every_picture_leads_somewhere(site, read):
    dead = []
    for page, content in read.items():
        for address in content.links + content.loaded:
            target = local(page, address)
            if target is None:
                continue
            file, anchor = target
            page_there = read.get(file / "index.html" if file.is_dir() else file)
            if not file.is_file() or (page_there and anchor and anchor not in page_there.anchors):
                dead.append(f"{page.relative_to(site)}: {address}")
    assert sum(len(content.links) for content in read.values()) > 1000
    assert dead == []


def test_nothing_is_loaded_from_another_host(site, read):
    foreign = {
        f"{page.relative_to(site)}: {address}"
        for page, content in read.items()
        for address in content.loaded
        if urlsplit(address).netloc
    }
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        foreign |= {
            f"{sheet.name}: {each}" for each in re.findall(r"url\(\s*[\"']?((?:https?:)?//[^)]*)", text)
        }
        foreign |= {f"{sheet.name}: {each}" for each in re.findall(r"@import[^;]*//[^;]*", text)}
    assert not foreign


def test_no_word_in_angle_brackets_was_taken_for_an_element(site, read):
    strange = {
        f"{page.relative_to(site)}: <{name}>"
        for page, content in read.items()
        for name in content.elements - KNOWN
    }
    assert not {each for each in strange if not each.startswith("results/")}


def commands(group: Any, path: str = "") -> Iterator[str]:
    for name, command in getattr(group, "commands", {}).items():
        yield f"{path} {name}".strip()
        yield from commands(command, f"{path} {name}")


COMMANDS = list(commands(typer.main.get_command(app)))


def public_names() -> list[tuple[str, str]]:
    """(package, name) of all that packages list in `__all__`, read without importing them."""
    listed = []
    for file in sorted((ROOT / "dsnet_med").rglob("__init__.py")):
        package = ".".join(file.parent.relative_to(ROOT).parts)
        if block := re.search(r"^__all__ = \[(.*?)\]", file.read_text(encoding="utf-8"), re.S | re.M):
            names = re.findall(r'"(\w+)"', block[1])
            listed += [(package, name) for name in names if not name.startswith("__")]
    return listed


def test_the_search_finds_every_command(found):
    assert len(COMMANDS) >= 16
    for name in COMMANDS:
        assert f"reference/commands/{name.replace(' ', '-')}.html" in found[name], name


def test_the_search_finds_every_public_name(found):
    names = public_names()
    assert {("dsnet_med", "Predictor"), ("dsnet_med.networks", "attach")} < set(names)
    for package, name in names:
        assert f"reference/python/{package}.html#{package}.{name}" in found[name], (package, name)


def test_the_search_finds_what_the_contract_names(found):
    plugins = (
        "SE ECA CBAM Encoding PSA DSM GlobalContext Hamburger ExternalAttention CrissCross PositionAttention "
        "ChannelAttention FrequencyChannel"
    )
    others = "build_network attach from_reference Predictor from_run predict dice hd95 score_case analyse"
    assert [name for name in f"{plugins} {others}".split() if name not in found] == []


def test_a_page_of_a_command_has_all_its_options(site):
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        text = (site / "reference" / "commands" / f"{name}.html").read_text(encoding="utf-8")
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert f"<code>{parameter.opts[0]}</code>" in text, (name, parameter.opts)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("compare", "reference/commands/compare.html"),
        ("import-checkpoint", "reference/commands/import-checkpoint.html"),
        ("build_network", "reference/python/dsnet_med.html#dsnet_med.build_network"),
        ("dsnet_med.evaluate.hd95", "reference/python/dsnet_med.evaluate.html#dsnet_med.evaluate.hd95"),
    ],
)
def test_search_works_in_a_page_opened_from_the_disk(site, browser, typed, wanted):
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "index.html").as_uri())
    page.locator("input.md-search__input").press_sequentially(typed)
    page.wait_for_selector("a.md-search-result__link")
    hits = [link.get_attribute("href") for link in page.locator("a.md-search-result__link").all()]
    assert any(urlsplit(hit)._replace(query="").geturl().endswith(wanted) for hit in hits), hits
    assert all(url.startswith(("file:", "data:", "about:")) for url in asked), asked
    page.close()
