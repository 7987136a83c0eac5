"""Which GPUs a job may use: on one machine, device ids that no other job has, held by locks that end with the job."""

import contextlib
import fcntl
import os
import re
import tempfile
import time
from pathlib import Path

from moult.base.errors import UserError
from moult.jobs.slurm import allocation

# Looked at again after so many seconds, while others hold what a job waits for.
PAUSE = 0.1
# File descriptors of the locks of this process. The processes that it starts for its work hold them, too, so that
# a device is not free before the last of them has left it.
LOCKS = []


def visible_devices():
    """Return the ids of the GPUs that this process may use, as strings; of all on the machine unless limited.

    CUDA_VISIBLE_DEVICES limits them, to numbers or names (`GPU-…`, `MIG-…`). Costs no import and no driver call.
    """
    limited = os.environ.get("CUDA_VISIBLE_DEVICES")
    if limited is not None:
        return [device for device in (part.strip() for part in limited.split(",")) if device not in ("", "-1")]
    found = [name.removeprefix("nvidia") for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)]
    return sorted(found, key=int)


@contextlib.contextmanager
def leased(count, tell, folder=None):
    """Hold `count` GPUs alone while the block runs: CUDA_VISIBLE_DEVICES names them, and the block gets the list.

    Snakemake counts GPUs but hands out no ids. Each device is a lock file in `folder`, which all jobs of the machine
    share, whoever started them; a lock ends with the last process that holds it, however the process ends. While too
    few are free the job waits, holding none, and `tell` says so once. No GPU on this machine, or a scheduler that has
    chosen: nothing is held, and the list is empty. UserError when the machine has fewer than `count`.
    """
    devices = visible_devices()
    if not count or not devices or allocation():
        yield []
        return
    if len(devices) < count:
        raise UserError(f"the job needs {count} GPUs, and this machine shows {len(devices)} ({', '.join(devices)}).")
    # Of all users of the machine: not below anybody's home.
    folder = Path(folder or Path(tempfile.gettempdir(), "moult-gpus"))
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):
        folder.chmod(0o1777)
    held = _acquire(folder, devices, count)
    if held is None:
        tell(f"waiting for {count} of the GPUs {', '.join(devices)}: other jobs have them")
        while (held := _acquire(folder, devices, count)) is None:
            time.sleep(PAUSE)
    LOCKS[:] = held.values()
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
    try:
        yield list(held)
    finally:
        while LOCKS:
            os.close(LOCKS.pop())
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _acquire(folder, devices, count):
    """Return {device: open lock} of `count` free devices; None, and nothing held, if there are fewer."""
    held = {}
    with _locked(folder / "choosing.lock"):
        for device in devices:
            handle = _open(folder / f"{device.replace('/', '_')}.lock")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            held[device] = handle
            if len(held) == count:
                return held
    for handle in held.values():
        os.close(handle)
    return None


@contextlib.contextmanager
def _locked(path):
    """Hold a lock for the moment of choosing, or two jobs that need several would each take one and wait."""
    handle = _open(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _open(path):
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with contextlib.suppress(PermissionError):
        os.fchmod(handle, 0o666)
    return handle
