"""The pictures of a report: of its worst cases, of each organ's worst case, of cases that predictions differ
in.

Files are read again, one case after the other, since only the last score tells which few are shown. All slices
of a shown case go into the page where there is room for them (stacks.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsnet_med.errors import InputError
from dsnet_med.evaluate.case_view import PLANES, CaseView, Window, view_of
from dsnet_med.evaluate.overlay import Drawn, Panel, colours_of, drawn, panels_of
from dsnet_med.evaluate.score_folders import CaseScore
from dsnet_med.evaluate.stacks import PAGE_MB, size_of, stack_of
from dsnet_med.evaluate.worst_place import Place


@dataclass
class Picture:
    """Panels through one place of a case; `stack` names the slices that they can be scrolled through, if
    any."""

    case: str
    panels: list[Drawn] = field(default_factory=list)
    place: Place = (0, 0, 0)
    position: str = ""
    sliders: list[tuple[int, str, str]] = field(default_factory=list)  # axis, its plane's name, where
    window: str = ""
    note: str = ""
    stack: str = ""


@dataclass(frozen=True)
class Shown:
    """What a page shows: pictures by what they were asked for, stacks by name, and hashes of images by case."""

    pictures: dict[Any, Picture]
    stacks: dict[str, dict[str, Any]]
    image_sha256: dict[str, str]
    without_stack: list[str]


@dataclass(frozen=True)
class Wanted:
    """Pictures of one case: `scores` under each prediction, and by key what is to be seen where."""

    scores: Sequence[CaseScore]
    views: Mapping[Any, Callable[[CaseView], tuple[Place, list[Panel]]]]


def at_worst(predictions: Sequence[str] = ("Prediction",), show: int = 1, against: int = 0) -> Any:
    """All panels, where the map `show` differs most from the map `against`."""
    return lambda view: (view.worst(show=show, against=against), panels_of(view, predictions))


def at_worst_of(number: int) -> Any:
    """The differences in one organ on all planes, where it differs most."""

    def chosen(view: CaseView) -> tuple[Place, list[Panel]]:
        panels = [Panel(PLANES[plane].capitalize(), plane, 1, 0, number) for plane in view.planes]
        return view.worst(number), panels

    return chosen


def pictures_of(
    wanted: Sequence[Wanted],
    labels: Mapping[int, str],
    images: Mapping[str, Path],
    window: Window | None = None,
    page_mb: float = PAGE_MB,
) -> Shown:
    """Draw what is wanted; pictures and stacks of all cases take at most `page_mb` megabytes of text, as far as
    the pictures alone do not take more. Every case gets its share, and what earlier ones left."""
    shown = Shown({}, {}, {}, [])
    left, colours = page_mb * 1e6, colours_of(labels)
    for place, each in enumerate(wanted):
        case = each.scores[0].case
        share = left / (len(wanted) - place)
        try:
            view = view_of(each.scores, labels, images.get(case), window)
        except (InputError, MemoryError) as error:
            shown.pictures.update({key: Picture(case, note=f"not shown: {error}") for key in each.views})
            continue
        own = {key: _picture(case, view, *chosen(view), colours) for key, chosen in each.views.items()}
        taken = sum(len(panel.picture) for picture in own.values() for panel in picture.panels)
        stack = stack_of(view, share - taken) if len(view.planes) > 1 else None
        if stack is not None:
            name = f"stack-{place}"
            shown.stacks[name] = stack
            taken += size_of(stack)
            for picture in own.values():
                picture.stack = name
        elif len(view.planes) > 1:
            shown.without_stack.append(case)
        if view.image_sha256:
            shown.image_sha256[case] = view.image_sha256
        shown.pictures.update(own)
        left -= taken
    return shown


def _picture(case: str, view: CaseView, place: Place, panels: Sequence[Panel], colours: Any) -> Picture:
    return Picture(
        case,
        [drawn(view, panel, place, colours) for panel in panels],
        place,
        view.position(view.plane, place),
        [(plane, PLANES[plane], view.position(plane, place)) for plane in view.planes],
        view.window,
        view.note,
    )
