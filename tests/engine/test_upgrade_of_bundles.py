"""A bundle of a run of before can be made where its store is not, as one of today."""

from dsnet_med import resources
from dsnet_med.engine.export.upgrade import as_now
from dsnet_med.engine.overrides import load


def test_train_and_evaluate_of_before_are_as_today() -> None:
    train, evaluate = (load(resources.configs() / f"{name}.yaml") for name in ("train", "evaluate"))
    assert as_now("train", train) == train and as_now("evaluate", evaluate) == evaluate
    before = {**train, "cases": train["cases"].replace("cases_where_there", "split_cases")}
    assert before != train
    assert as_now("train", before) == train
    old = {name: evaluate[name] for name in evaluate if name not in ("dataset", "inferer", "evaluator")}
    assert as_now("evaluate", old) == evaluate
