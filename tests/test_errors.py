"""The wording of errors: one line, what was got, what is known, the nearest guess."""

import errno
import pickle

import pytest

from dsnet_med.errors import CasesFailedError, InputError, one_line, printable, shown, unknown, want_of_means


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


def _raised_from(cause: BaseException) -> Exception:
    try:
        raise ValueError("damaged") from cause
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (MemoryError(), "memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (PermissionError(errno.EACCES, "Permission denied"), "permission denied"),
        (OSError(errno.EIO, "Input/output error"), "drive"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "memory"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
    ],
)
def test_what_is_wanting_is_found_behind_other_errors(error, word):
    assert word in want_of_means(error)
    assert word in want_of_means(_raised_from(error))


@pytest.mark.parametrize(
    "error", [ValueError("bad magic"), OSError(errno.ENOENT, "No such file"), KeyError("x")]
)
def test_other_errors_are_no_want_of_means(error):
    assert want_of_means(error) is None


def test_what_could_move_a_cursor_is_shown_as_its_escape():
    assert printable("a\x1b[2Jb\u202ec") == "a\\x1b[2Jb\\u202ec"
    assert "\x1b" not in one_line(ValueError("x\x1b[31m"))


def test_foreign_values_are_shown_within_bounds():
    doubled = ["x" * 50]
    for _ in range(40):
        doubled = [doubled, doubled]
    for value in (doubled, "y" * 10**6, 10**6000, {str(n): n for n in range(10**5)}, b"\x1b" * 1000):
        assert len(shown(value)) <= 120
        assert shown(value).isprintable()
