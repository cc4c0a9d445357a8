"""What explain.json says of one run beside its effects: which plug-ins it has, and what they compute."""

from typing import Any

from dsnet_med.explain.gates import DECLARED
from dsnet_med.explain.measures import Measures
from dsnet_med.explain.subject import Subject

LEAVES_OUT = (
    "an intervention is made on a trained network, which is not trained again without its plug-in: what "
    "training would have found instead is for `compare` to say",
    "intervals are over the cases given here; they say nothing of other seeds, scanners or hospitals",
    "a mean gate is the mean over these same cases: of few cases it knows each a little",
    "attention maps and gates say what a plug-in computes, not why",
)


def run_content(subject: Subject) -> dict[str, Any]:
    """The entry of a run, with one of each of its plug-ins."""
    plugins = {
        name: plugin_facts(subject, name, measures) for name, measures in sorted(subject.measures.items())
    }
    why = dict(subject.watched.unmeasured)
    ran = {name.partition("#")[0] for name in (*plugins, *why)}
    why |= {name: "it did not run" for name in subject.plugins if name not in ran}
    return {
        "name": subject.name,
        "path": subject.path,
        "title": subject.predictor.title,
        "fingerprint": subject.predictor.fingerprints[0] if subject.predictor.fingerprints else "",
        "plugins": plugins,
        "not_measured": {
            name: {"class": _class_of(subject, name), "reason": reason} for name, reason in why.items()
        },
        "scores": None,
        "interventions": [],
        "image_dependence": None,
        "where": None,
        "attribution": None,
        "pictures": [],
        "notes": _notes(subject),
    }


def _notes(subject: Subject) -> list[str]:
    if not subject.plugins:
        return ["this network has no plug-in: there is nothing to replace"]
    every, shown = {name for name, _ in subject.maps}, subject.pictured()
    few = f"maps of {len(shown)} of {len(every)} plug-ins are shown; --save-maps writes those of all"
    return [few] if len(shown) < len(every) else []


def plugin_facts(subject: Subject, name: str, measures: Measures) -> dict[str, Any]:
    """What a plug-in computes, summed up over all images."""
    channels, *shape = measures.shape
    form = subject.forms[name]
    return {
        "class": _class_of(subject, name),
        "declared": subject.declared[name],
        "form": measures.form if form == DECLARED else _FORMS.get(form, form),
        "left_over": measures.left_over,
        "note": subject.notes.get(name, ""),
        "channels": channels,
        "shape": shape,
        "energy_changed": measures.change.energy.summary(),
        "not_constant": measures.change.not_constant(),
        "gates": {gate: each.summary() for gate, each in measures.gates.items()},
    }


_FORMS = {"offset": "added", "channel and offset": "mixed"}


def _class_of(subject: Subject, name: str) -> str:
    plugin = subject.watched.plugins[name.partition("#")[0]]
    inner = getattr(plugin, "plugin", None)
    own = type(plugin).__name__
    return f"{own}({type(inner).__name__})" if own == "ReZero" and inner is not None else own
