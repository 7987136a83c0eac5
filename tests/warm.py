"""Programs that start warm: each runs in a child of one process that has imported Snakemake and what its file imports.

Half of what a dry run takes is imports. Arguments, folder, environment, output and exit are those of a process started
anew. Only what reads the environment while it is imported, as Python's own variables, has that of this run of pytest.
"""

import atexit
import functools
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def _parent(python):
    """Start the process whose children the programs are."""
    parent = subprocess.Popen([python, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(parent.communicate)
    return parent


def run(command, cwd=".", env=None):
    """Run `python -m MODULE …` or `python -c PROGRAM …`, as `subprocess.run` does; return its `CompletedProcess`.

    `moult` is that of this checkout, whatever Snakefile is named.
    """
    python, *words = map(str, command)
    parent = _parent(python)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        task = {"words": words, "folder": str(Path(cwd).absolute()), "environment": env or dict(os.environ)}
        task |= {"outputs": [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]}
        print(json.dumps(task), file=parent.stdin, flush=True)
        code = int(parent.stdout.readline())
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


def _become(task):
    """Run a task in this process, a child of the warm one, to the exit of both."""
    os.chdir(task["folder"])
    os.environ.clear()
    os.environ.update(task["environment"])
    for number, path in enumerate([os.devnull, *task["outputs"]]):
        os.dup2(os.open(path, os.O_RDWR), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    kind, what, *arguments = task["words"]
    sys.argv = [what, *arguments]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


def _serve():
    from snakemake.cli import get_argument_parser

    sys.path.insert(0, str(ROOT / "scripts"))
    get_argument_parser()
    import moult.planning.standing
    import moult.planning.start
    import moult.stages  # noqa: F401

    for line in sys.stdin:
        if not (child := os.fork()):
            return _become(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
