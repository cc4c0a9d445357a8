"""The wording of errors: one line, what was got, what is known, the nearest guess."""

import pickle

import pytest

from dsnet_med.errors import CasesFailedError, InputError, one_line, unknown


@pytest.mark.parametrize(
    ("name", "guess"),
    [("synapze", "synapse"), ("fcn_dms", "fcn_dsm"), ("acd", "acdc"), ("fcn", "fcn")],
)
def test_a_near_miss_is_guessed(name, guess):
    error = unknown("recipe", name, ["synapse", "acdc", "fcn_dsm", "fcn"])
    assert isinstance(error, InputError)
    assert f"did you mean '{guess}'? " in str(error)
    assert f"unknown recipe '{name}'" in str(error)


def test_a_name_near_none_lists_what_is_known_in_order():
    assert (
        str(unknown("method", "xyz", iter(["fcn_dsm", "danet"])))
        == "unknown method 'xyz': known: danet, fcn_dsm"
    )


def test_an_input_error_is_a_value_error_for_callers_that_know_no_better():
    with pytest.raises(ValueError, match="too small"):
        raise InputError("too small")


def test_failed_cases_are_named_with_their_reasons():
    error = CasesFailedError({"0001": "no label", "0002": "damaged"})
    assert str(error) == "0001: no label; 0002: damaged"
    assert error.failures["0002"] == "damaged"
    assert not isinstance(error, InputError)


@pytest.mark.parametrize("error", [InputError("bad"), CasesFailedError({"0001": "no label"})])
def test_errors_come_back_from_a_worker_process(error):
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_reasons_fit_on_one_line():
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(KeyError()) == "KeyError"
    assert one_line("") == ""
    assert one_line("abc" * 100) == ("abc" * 100)[:200]
    assert one_line("abc" * 100, None) == "abc" * 100
