"""What the configurations of earlier runs lack for other programs, put in when such a run is exported."""

from collections.abc import Mapping
from typing import Any

from dsnet_med import resources
from dsnet_med.engine.overrides import load

_TAKE = "$engine.handed_over.take()"
_INTEGERS = "$torch.uint8 if @num_classes <= 256 else torch.int16"


def as_now(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """train or inference of a run, so that MONAI Label can train it and gets integers; others as they are."""
    if isinstance(cases := config.get("cases"), str):  # so that it can be made where the store is not
        config = {
            **config,
            "cases": cases.replace("engine.data.split_cases(", "engine.data.cases_where_there("),
        }
    if name == "evaluate" and config.get("loader") and "evaluator" not in config:
        return load(resources.configs() / "evaluate.yaml")
    if name == "train" and isinstance(config.get("initialize"), list) and _TAKE not in config["initialize"]:
        return {**config, "initialize": [_TAKE, *config["initialize"]]}
    after = config.get("postprocessing") if name == "inference" else None
    if not isinstance(after, Mapping) or not isinstance(after.get("transforms"), list):
        return dict(config)
    transforms = [_in_integers(transform) for transform in after["transforms"]]
    return {**config, "postprocessing": {**after, "transforms": transforms}}


def _in_integers(transform: Any) -> Any:
    decides = isinstance(transform, Mapping) and transform.get("_target_") == "AsDiscreted"
    return {**transform, "dtype": transform.get("dtype", _INTEGERS)} if decides else transform
