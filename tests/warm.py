"""Programs that start warm: each runs in a child of one process that has imported what our programs import.

Nine tenths of what a pico build takes is imports. Arguments, folder, environment, output, exit and a kill are those of
a process started anew. `moult` is that of this checkout, whatever Snakefile is named. What reads the environment while
it is imported has read that of the warm process.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve()
# Read while libraries are imported.
LEAN = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
# What a warm Snakemake takes for its Python: scripts of its jobs start warm, too, all else as ever.
SHIM = """#!{python} -SE
import os, sys
if "/scripts/" not in sys.argv[1]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
sys.path.insert(0, {folder!r})
import warm
sys.exit(warm.ask({address!r}, sys.argv[1:]))
"""


@functools.cache
def _address():
    """Start the warm process, once for this one; return the socket that it listens at, None where it cannot."""
    folder = tempfile.mkdtemp(prefix="warm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address = f"{folder}/socket"
    (shim := Path(folder, "python")).write_text(
        SHIM.format(python=sys.executable, folder=str(HERE.parent), address=address)
    )
    shim.chmod(0o755)
    command = [sys.executable, HERE, address]
    serving = subprocess.Popen(command, env=os.environ | LEAN, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(serving.communicate)
    serving.stdout.readline()
    (script := Path(folder, "scripts", "told.py")).parent.mkdir()
    script.write_text("print('warm')")
    with contextlib.suppress(OSError):
        told = subprocess.run([shim, script], capture_output=True, text=True, check=False).stdout
        return address if told == "warm\n" else None


def run(command, cwd=".", env=None):
    """Run `python -m MODULE …`, `python -c PROGRAM …` or `python FILE …`, as `subprocess.run` does; return its
    `CompletedProcess`. It starts cold where the system lacks what warm starts need."""
    if not (address := _address()):
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = ask(address, [str(word) for word in command[1:]], cwd, env, (out.fileno(), err.fileno()))
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


def start(command, **settings):
    """Start what `run` runs; return the `Popen` of a process that ends with it, and kills it when it is killed."""
    if not (address := _address()):
        return subprocess.Popen(command, **settings)
    asking = "import sys; sys.path.insert(0, sys.argv[1]); import warm; sys.exit(warm.ask(sys.argv[2], sys.argv[3:]))"
    command = [sys.executable, "-SE", "-c", asking, HERE.parent, address, *command[1:]]
    return subprocess.Popen(command, **settings)


def ask(address, words, cwd=".", env=None, outputs=(1, 2)):
    """Let a child of the warm process, which ends with this one, run Python's arguments; return its exit status."""
    task = {"words": words, "folder": os.path.abspath(cwd), "environment": env or dict(os.environ)}
    task |= {"outputs": [f"/proc/{os.getpid()}/fd/{number}" for number in outputs]}
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        line.sendall(json.dumps(task).encode() + b"\n")
        return int(line.makefile().readline())


def _become(task, shim):
    """Run a task in this process, to its exit."""
    if all(task["environment"].get(name) == value for name, value in LEAN.items()) and task["words"][1:2] == [
        "snakemake"
    ]:
        sys.executable = shim
    os.chdir(task["folder"])
    os.environ.clear()
    os.environ.update(task["environment"])
    for number, path in enumerate([os.devnull, *task["outputs"]]):
        if not os.path.exists(path):
            # Nobody waits.
            os._exit(1)
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    code: object = 0
    try:
        _interpret(*task["words"])
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001
        code = traceback.format_exc()
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    # What an interpreter does at its end, but for taking apart all that was imported.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def _interpret(kind, *words):
    """Run what Python's arguments name."""
    if kind == "-m":
        sys.argv, sys.path[0] = [*words], os.getcwd()
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv, sys.path[0] = ["-c", *words[1:]], ""
        exec(compile(words[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = [kind, *words], os.path.dirname(kind)
        runpy.run_path(kind, run_name="__main__")


def _attend(line, shim):
    """Run the task of a connection in a child, and tell its exit status; if nobody waits, kill all of this."""
    os.setsid()
    if not (asked := line.makefile().readline()):
        os._exit(0)
    task = json.loads(asked)
    if not (child := os.fork()):
        line.close()
        _become(task, shim)
    ended = os.pidfd_open(child)
    if ended not in select.select([line, ended], [], [])[0]:
        os.killpg(0, signal.SIGKILL)
    with contextlib.suppress(BrokenPipeError):
        line.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os._exit(0)


def _import_all():
    """Import what Snakemake, its file and the jobs import, as they do."""
    from snakemake.cli import get_argument_parser

    sys.path.insert(0, str(HERE.parents[1] / "scripts"))
    get_argument_parser()
    from moult.base.lean_imports import hide_compiler, hide_packages

    with hide_packages("datasets", "scipy"), hide_compiler():
        from transformers import LlamaForCausalLM, Trainer  # noqa: F401
    for name in ("moult.planning.standing", "moult.planning.start", "moult.stages"):
        import_module(name)
    for name in ("matplotlib.figure", "mergekit.plan", "peft", "torch._dynamo"):
        import_module(name)


def _serve(address):
    _import_all()
    shim = str(Path(address).with_name("python"))
    # What is there stays in pages that are shared.
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        print("listening", flush=True)
        # Its standard input ends with whoever started it.
        while True:
            ready, _, _ = select.select([listening, 0], [], [])
            if 0 in ready:
                return
            line, _ = listening.accept()
            if not os.fork():
                listening.close()
                _attend(line, shim)
            line.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


if __name__ == "__main__":
    _serve(sys.argv[1])
