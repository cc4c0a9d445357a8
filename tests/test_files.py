"""Files are whole or absent, whatever happens; what cannot be written is said in one line."""

import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dsnet_med.errors import InputError
from dsnet_med.files import (
    locked,
    output_error,
    remove_partial,
    require_writable,
    sha256,
    staging,
    write_json,
    write_text,
    written_whole,
)
from dsnet_med.find import absent, files_in, is_dangling, require_file

ADVICE = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "quota",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "read-only",
    errno.ENOTDIR: "a file lies where a folder is wanted",
    errno.EEXIST: "a file lies where a folder is wanted",
}


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "er" / "scores.json"
    with written_whole(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".json")
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def half_written(path, error):
    with written_whole(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError("bad voxel"), KeyboardInterrupt(), SystemExit(1), MemoryError()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "mask.nii.gz"
    path.write_text("old")

    with pytest.raises(type(error)):
        half_written(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", ADVICE)
def test_what_the_system_refuses_is_said_in_one_line(tmp_path, code):
    path = tmp_path / "scores.json"
    path.write_text("old")

    with pytest.raises(InputError) as caught:
        half_written(path, OSError(code, os.strerror(code)))
    assert str(caught.value).startswith(f"cannot write {path}: ")
    assert ADVICE[code] in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_another_kind_keeps_the_system_s_words():
    assert (
        str(output_error(Path("a"), OSError(errno.EINTR, "Interrupted system call")))
        == "cannot write a: Interrupted system call"
    )
    assert str(output_error(Path("a"), OSError("no number"))) == "cannot write a: no number"


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match="a file lies where a folder is wanted"):
        write_text(tmp_path / "taken" / "scores.json", "x")
    with pytest.raises(InputError, match="a file lies where a folder is wanted"):
        require_writable(tmp_path / "taken")


def test_a_full_disk(mounted):
    folder = mounted("size=64k")
    write_text(folder / "small.txt", "fits")
    with pytest.raises(InputError, match="no space left on the device; free some"):
        write_text(folder / "large.txt", "x" * 1_000_000)
    assert [file.name for file in folder.iterdir()] == ["small.txt"]


def test_a_read_only_folder(mounted):
    folder = mounted("ro")
    with pytest.raises(InputError, match="read-only; choose another folder"):
        require_writable(folder)
    with pytest.raises(InputError, match="read-only; choose another folder"):
        require_writable(folder / "new")
    with pytest.raises(InputError, match="read-only; choose another folder"):
        write_text(folder / "scores.json", "x")


def test_a_killed_writer_leaves_a_leftover_that_the_next_run_removes(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from dsnet_med.files import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "case.bin"
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / ".hidden").write_text("the user's own")
    remove_partial(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [".hidden"]


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_json_and_text_read_back(tmp_path):
    value = {"mean": {"dice": 0.5}, "organ": "Niere, linke (große)"}
    write_json(tmp_path / "summary.json", value)
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == value
    assert (tmp_path / "summary.json").read_text().endswith("}\n")
    with pytest.raises(TypeError):
        write_json(tmp_path / "other.json", {"path": object()})
    assert not (tmp_path / "other.json").exists()


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "volume").write_bytes(b"voxels" * 100_000)
    assert sha256(tmp_path / "volume") == hashlib.sha256(b"voxels" * 100_000).hexdigest()


def test_only_what_nobody_writes_any_more_is_removed(tmp_path):
    with staging(tmp_path) as place:
        (place / "a").write_text("being made")
        dead = subprocess.Popen(["true"])
        dead.wait()
        numbers = (dead.pid, dead.pid, os.getpid())
        gone = [
            f".{number}.partial.0123abcd{end}" for number, end in zip(numbers, ("", ".gz", ""), strict=True)
        ]
        elsewhere = [f".{dead.pid}.partial.{'0' * 16}{end}" for end in (".gz", "")]
        gone.append(elsewhere[1])
        stays = [f".{os.getppid()}.partial.0123abcd.gz", ".x.partial.y", "1.partial.0123abcd", elsewhere[0]]
        for name in gone + stays:
            (tmp_path / name).write_text("x")
        (tmp_path / f".{dead.pid}.partial.data").mkdir()  # not one that is made here
        stays.append(f".{dead.pid}.partial.data")
        os.utime(tmp_path / gone[2], (0, 0))  # of an earlier process with this one's number
        os.utime(tmp_path / gone[3], (0, 0))  # of another host, long ago
        remove_partial(tmp_path)
        assert (place / "a").read_text() == "being made"
        assert {path.name for path in tmp_path.iterdir()} == {*stays, place.name}
    assert {path.name for path in tmp_path.iterdir()} == set(stays)


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="only Linux tells the state of a process there"
)
def test_what_a_killed_process_wrote_is_removed_before_its_parent_has_noticed(tmp_path):
    """Until then it is a zombie, which still has its number."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet taken away
        left = tmp_path / f".{child.pid}.partial.0123abcd.bin"
        left.write_bytes(b"half")
        os.kill(child.pid, 0)  # a number in use
        remove_partial(tmp_path)
        assert not left.exists()
    finally:
        child.wait()


def test_links_that_lead_nowhere_are_among_the_files(tmp_path):
    (tmp_path / "b.nii").write_text("b")
    (tmp_path / "c.nii").symlink_to(tmp_path / "b.nii")
    (tmp_path / "a.nii").symlink_to("../.git/annex/objects/x")
    (tmp_path / "loop.nii").symlink_to("loop.nii")
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe.nii")
    assert [path.name for path in files_in(tmp_path)] == ["a.nii", "b.nii", "c.nii", "loop.nii"]
    assert [is_dangling(path) for path in files_in(tmp_path)] == [True, False, False, True]
    assert str(absent(tmp_path / "a.nii")).endswith(
        "a.nii: no such file, it is a link to ../.git/annex/objects/x, which is not there; "
        "fetch the data (git annex get, dvc pull) or mend the link"
    )
    assert str(absent(tmp_path / "x.nii")).endswith("x.nii: no such file")


def test_a_folder_that_cannot_be_listed(tmp_path):
    with pytest.raises(InputError, match=r"x: cannot be read \(No such file"):
        files_in(tmp_path / "x")


def test_a_link_that_leads_nowhere_says_so(tmp_path):
    """As in a data set of which a file has not been fetched."""
    (tmp_path / "link").symlink_to("../.git/annex/objects/x")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"")
    require_file(tmp_path / "file")
    for check in (require_file, sha256):
        with pytest.raises(
            InputError, match=r"link: .* a link to \.\./\.git/annex/objects/x, which is not there; fetch"
        ):
            check(tmp_path / "link")
        with pytest.raises(InputError, match=r"loop: .* a link to loop, which is not there"):
            check(tmp_path / "loop")
        with pytest.raises(InputError, match=r"none: no such file$"):
            check(tmp_path / "none")


_HOLD = """
import sys, time, os
from pathlib import Path
from dsnet_med.files import locked
with locked(Path(sys.argv[1]), "trains in"):
    child = os.fork()  # as a data loader's worker is
    if child == 0:
        os.close(1)
        time.sleep(600)
        os._exit(0)
    print(child, flush=True)
    time.sleep(600)
"""


_STRANGER = (sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])")  # no child of ours


def _tried(folder: Path, *between: str) -> str:
    """What another process, started by `between`, says that locks `folder`."""
    code = "import sys; from pathlib import Path; from dsnet_med.files import locked\n"
    code += "with locked(Path(sys.argv[1]), 'reads'): pass"
    done = subprocess.run(
        [*between, sys.executable, "-c", code, folder], capture_output=True, text=True, check=False
    )
    return done.stderr


def test_a_folder_is_locked_for_one_process_until_that_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLD, tmp_path / "run"], stdout=subprocess.PIPE) as holder:
        worker = int(holder.stdout.readline())
        try:
            with (
                pytest.raises(InputError) as caught,
                locked(tmp_path / "run", "segments into"),
            ):
                pass
            owner = f"process {holder.pid} on {socket.gethostname()} trains in {tmp_path / 'run'}: wait"
            assert str(caught.value).startswith(owner)
        finally:
            holder.kill()
            holder.wait()
        try:
            with locked(tmp_path / "run", "segments into"):  # though the worker lives
                os.kill(worker, 0)
                with locked(tmp_path / "run" / ".." / "run", "reads"):
                    pass
                assert _tried(tmp_path / "run") == ""  # started by this process
                assert f"process {os.getpid()} on " in _tried(tmp_path / "run", *_STRANGER)
            assert list((tmp_path / "run").iterdir()) == []
            assert _tried(tmp_path / "run", *_STRANGER) == ""
        finally:
            os.kill(worker, 9)


def test_a_lock_that_cannot_be_had_keeps_nobody_out_and_one_that_cannot_be_written_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", unsupported)
    with locked(tmp_path, "reads"):
        pass
    assert caplog.messages == [
        f"{tmp_path}: locks cannot be had there: see to it that nothing else writes into it"
    ]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), locked(tmp_path / "file", "reads"):
        pass


def test_those_that_do_the_same_work_share_a_folder_and_no_others(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from dsnet_med.files import locked\n"
    code += "with locked(Path(sys.argv[1]), 'segments into', shared=sys.argv[2]): print(flush=True); input()"

    def begun(work: str) -> subprocess.Popen[str]:
        command = [*_STRANGER, sys.executable, "-c", code, str(tmp_path / "out"), work]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    several = [begun("a") for _ in range(3)]
    for each in several:
        assert each.stdout is not None
        assert each.stdout.readline() == "\n"
    for other in ("b", ""):
        assert "segments into" in begun(other).communicate()[1].splitlines()[-1]
    for each in several:
        assert [each.communicate("\n")[1], each.returncode] == ["", 0]
    assert begun("b").communicate("\n")[1] == ""
    assert [each.name for each in tmp_path.rglob("*")] in ([], ["out"])  # and no lock


_COUNT = """
import sys
from pathlib import Path
from dsnet_med.errors import InputError
from dsnet_med.files import locked
folder, done = Path(sys.argv[1]), 0
while done < 100:
    try:
        with locked(folder, "counts in"):
            file = folder.parent / "count"  # so that the folder comes and goes
            file.write_text(str(int(file.read_text()) + 1))
        done += 1
    except InputError:
        pass
"""


def test_of_several_processes_one_at_a_time_has_a_folder_though_it_comes_and_goes(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    several = [subprocess.Popen([*_STRANGER, sys.executable, "-c", _COUNT, tmp_path / "out"]) for _ in range(3)]
    assert [each.wait() for each in several] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "300"
    assert {each.name for each in tmp_path.rglob("*")} <= {"count", "out"}  # and no lock


@pytest.mark.parametrize("signed", [b"", b"{", b'["x"]', b"[" * 100_000, b'[1, "a\\u001b[2J", "is\\nin", ""]'])
def test_a_lock_that_says_something_else_of_its_owner_is_one(tmp_path: Path, signed: bytes) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLD, tmp_path], stdout=subprocess.PIPE) as holder:
        worker = int(holder.stdout.readline())
        try:
            with (tmp_path / ".lock").open("r+b") as lock:
                lock.truncate(0)
                lock.write(signed)
            with (
                pytest.raises(InputError, match="wait until it has ended") as caught,
                locked(tmp_path, "reads"),
            ):
                pass
            assert str(caught.value).isprintable()
        finally:
            holder.kill()
            os.kill(worker, 9)


def test_a_temporary_name_follows_no_link_and_is_new_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    for _ in range(2):
        with written_whole(tmp_path / "run.json") as temporary:
            names.add(temporary.name)
    assert len(names) == 2
    (tmp_path / "victim").write_text("precious")
    monkeypatch.setattr("dsnet_med.files._mark", lambda: "guessed")
    (tmp_path / f".{os.getpid()}.partial.guessed.json").symlink_to("victim")
    with pytest.raises(InputError, match="cannot write"):
        write_text(tmp_path / "run.json", "other")
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_written_file_has_the_rights_that_others_have(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_is_to_last_is_on_the_disk_before_and_after_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def noted(descriptor: int) -> None:
        whole = (tmp_path / "last.pt").exists() and (tmp_path / "last.pt").read_text()
        seen.append((Path(f"/proc/self/fd/{descriptor}").readlink().name.partition(".partial")[0], whole))

    monkeypatch.setattr("os.fsync", noted)
    write_text(tmp_path / "last.pt", "state")
    assert seen == []
    write_text(tmp_path / "last.pt", "newer", durable=True)
    assert seen == [(f".{os.getpid()}", "state"), (tmp_path.name, "newer")]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synchronised_is_no_error_and_a_broken_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", refused)
    if code == errno.EINVAL:
        write_text(tmp_path / "last.pt", "state", durable=True)
    else:
        with pytest.raises(InputError, match="reports an error"):
            write_text(tmp_path / "last.pt", "state", durable=True)
