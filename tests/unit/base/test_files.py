"""Whole files or none; sentences that name what was to be made; text that survives."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from moult.base.errors import UserError
from moult.base.files import (
    ABANDONED,
    derive_seed,
    digest,
    read_jsonl,
    whole_directory,
    whole_file,
    write_json,
    write_jsonl,
)
from moult.base.processes import Process, _state_and_start, machine_start


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out.txt"
    with pytest.raises(RuntimeError), whole_file(target) as handle:
        handle.write("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with whole_file(target) as handle:
        handle.write("whole")
    assert target.read_text() == "whole" and len(list(tmp_path.iterdir())) == 1


def test_a_failed_directory_leaves_the_old_one(tmp_path):
    target = tmp_path / "model"
    with whole_directory(target) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(RuntimeError), whole_directory(target) as folder:
        (folder / "weights").write_text("new")
        raise RuntimeError
    assert (target / "weights").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


WRITER = """
import os, signal, sys
from pathlib import Path
from moult.base.files import whole_directory, whole_file
folder, task = Path(sys.argv[1]), sys.argv[2]
if task == "die":
    with whole_directory(folder / "model") as half, whole_file(folder / "table.csv") as handle:
        (half / "weights").write_text("half")
        handle.write("half")
        handle.flush()
        os.kill(os.getpid(), signal.SIGKILL)
for _ in range(40):
    with whole_directory(folder / "model") as half:
        (half / "weights").write_text(task)
        (half / "config").write_text(task)
"""


def start(folder, task):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "scripts")}
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), task], env=environment)


def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path):
    assert start(tmp_path, "die").wait() == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.partial"))) == 2 and not (tmp_path / "model").exists()
    with whole_directory(tmp_path / "model") as folder:
        (folder / "weights").write_text("whole")
    with whole_file(tmp_path / "table.csv") as handle:
        handle.write("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "table.csv"]


def test_of_two_writers_one_wins_and_nothing_is_mixed(tmp_path):
    writers = [start(tmp_path, task) for task in ("left", "right")]
    while any(writer.poll() is None for writer in writers):
        with contextlib.suppress(FileNotFoundError):
            folder = os.open(tmp_path / "model", os.O_RDONLY)
            names, seen = set(os.listdir(folder)), os.fstat(folder).st_ino
            os.close(folder)
            # Otherwise it has just been moved away.
            assert seen != os.stat(tmp_path / "model").st_ino or names == {"weights", "config"}
    assert [writer.wait() for writer in writers] == [0, 0]
    assert (tmp_path / "model/weights").read_text() == (tmp_path / "model/config").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_sentence_names_what_was_to_be_made(tmp_path):
    with pytest.raises(UserError) as caught, whole_directory(tmp_path / "model") as folder:
        raise UserError(f"{folder / 'weights'}: is cut; fetch it again.")
    assert str(caught.value) == f"{tmp_path / 'model/weights'}: is cut; fetch it again."


def test_a_group_may_read_what_was_made(tmp_path):
    with whole_directory(tmp_path / "model") as folder:
        (folder / "weights").write_text("x")
        os.chmod(folder / "weights", 0o600)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "model" / "weights").stat().st_mode) == 0o666 & ~mask


def test_rows_with_hostile_text_survive(tmp_path):
    rows = [{"text": 'tab\t newline\n quote" null\x00 \u2028 <|im_end|> $(rm) {wildcard}'}, {"text": "日本"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(UserError, match="line 2: not a JSON object"):
        read_jsonl(tmp_path / "rows.jsonl")


def test_digests_and_seeds_do_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})
    assert derive_seed(1, "x") == derive_seed(1, "x") != derive_seed(2, "x")
    assert 0 <= derive_seed(10**9, "x") < 2**31


def test_json_is_sorted(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'


def left_by(folder, maker, age=0.0):
    """Return unfinished work on `model` that names its maker, last changed `age` seconds ago."""
    half = folder / f".model.{maker}.partial"
    half.mkdir()
    (half / "weights").write_text("half")
    for path in (half / "weights", half):
        os.utime(path, (time.time() - age,) * 2)
    return half


def test_unfinished_work_is_known_by_its_process_not_by_a_number(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        own = Process.own()
        theirs = own._replace(number=other.pid, start=_state_and_start(other.pid)[1])
        gone = [
            left_by(tmp_path, theirs._replace(start=theirs.start - 1)),
            left_by(tmp_path, own._replace(number=1, start=7)),
            left_by(tmp_path, own._replace(number=4_000_000)),
            # Of an earlier Moult, whose number is that of a process of today.
            left_by(tmp_path, f"{own.host}-{other.pid}"),
            left_by(tmp_path, own._replace(place="0" * 8), time.time() - machine_start() + 60),
            left_by(tmp_path, own._replace(host="elsewhere"), ABANDONED + 60),
            left_by(tmp_path, "elsewhere-77", ABANDONED + 60),
        ]
        stays = [
            left_by(tmp_path, theirs),
            left_by(tmp_path, own._replace(place="1" * 8)),
            left_by(tmp_path, own._replace(host="elsewhere", number=2), ABANDONED - 60),
            left_by(tmp_path, "elsewhere-78"),
            left_by(tmp_path, "mine", ABANDONED + 60),
        ]
        with whole_directory(tmp_path / "model") as folder:
            (folder / "weights").write_text("whole")
        assert not [path.name for path in gone if path.exists()]
        assert all(path.exists() for path in stays)
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        # It is dead, though nobody has asked how it ended.
        assert theirs.runs() is False
