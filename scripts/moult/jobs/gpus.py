"""Which GPUs a job may use: on one machine, device ids that no other job has, held by locks that end with the job."""

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from moult.base.errors import UserError
from moult.jobs.slurm import allocation

# Looked at again after so many seconds, while others hold what a job waits for.
PAUSE = 0.1
# Where NVIDIA's driver tells of itself.
PROC = "/proc/driver/nvidia"
# Set where devices are pretended, as in tests: what was given GPUs then works on the CPU.
PRETENDED = "MOULT_PRETENDED_GPUS"
# File descriptors of the locks of this process. The processes that it starts for its work hold them, too, so that
# a device is not free before the last of them has left it.
LOCKS: list[int] = []


def visible_devices(proc: str | Path = PROC, dev: str | Path = "/dev") -> dict[str, str]:
    """Return {name: what CUDA_VISIBLE_DEVICES calls it} of the GPUs that this process may use.

    CUDA_VISIBLE_DEVICES limits them, to numbers or names (`GPU-…`, `MIG-…`). Else they are all that have a device file,
    by their UUID, which is the same inside and outside of a container; CUDA counts them by their place on the bus
    (CUDA_DEVICE_ORDER). A UUID is no value for CUDA_VISIBLE_DEVICES: some releases of vLLM take numbers alone.
    Where the driver tells no UUID the number of the device file is the name. Costs no import and no driver call.
    """
    limited = os.environ.get("CUDA_VISIBLE_DEVICES")
    if limited is not None:
        named = (part.strip() for part in limited.split(","))
        return {device: device for device in named if device not in ("", "-1")}
    files = [name.removeprefix("nvidia") for name in os.listdir(dev) if re.fullmatch(r"nvidia\d+", name)]
    told: dict[str | None, str | None] = {}
    for file in sorted(Path(proc, "gpus").glob("*/information")):
        facts = dict(re.findall(r"^(GPU UUID|Device Minor):\s*(\S+)", file.read_text(errors="replace"), re.MULTILINE))
        told[facts.get("Device Minor")] = facts.get("GPU UUID")
    if not set(files) <= told.keys():
        told = dict.fromkeys(sorted(files, key=int))  # type: ignore[arg-type]  # names are numbers
    on_bus = [minor for minor in told if minor is not None and minor in files]
    return {told[minor] or minor: str(number) for number, minor in enumerate(on_bus)}


@contextlib.contextmanager
def leased(count: int, tell: Callable[[str], None], folder: Path | None = None) -> Iterator[list[str]]:
    """Hold `count` GPUs alone while the block runs: CUDA_VISIBLE_DEVICES has them, and the block gets their names.

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
    before = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")}
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices[device] for device in held)
    if before["CUDA_VISIBLE_DEVICES"] is None:
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    try:
        yield list(held)
    finally:
        while LOCKS:
            os.close(LOCKS.pop())
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}


def check_cuda(given: Sequence[str], proc: str | Path = PROC) -> None:
    """Raise a UserError when torch cannot use the GPUs that a job was given: it would take the CPU, in silence.

    given: their names, for the sentence. torch is asked in a process of its own, because a process that has called the
    driver must not be forked, as vLLM does.
    """
    if os.environ.get(PRETENDED):
        return
    program = "import torch; print(torch.__version__, torch.version.cuda, flush=True); torch.cuda.init()"
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if asked.returncode == 0:
        return
    version, cuda = [*asked.stdout.split(), "missing", "None"][:2]
    lines = asked.stderr.split("\n")
    reason = next((line.partition(": ")[2] for line in reversed(lines) if ": " in line), "").strip().rstrip(".")
    told = Path(proc, "version")
    found = re.search(r"Kernel Module\D*(\d+(?:\.\d+)+)", told.read_text(errors="replace")) if told.exists() else None
    driver = found[1] if found else "none that is to be seen here"
    if cuda == "None":
        remedy = "install the build of torch for CUDA that the driver supports"
    elif found:
        remedy = f"update the driver to one for CUDA {cuda}, or install a torch for an older CUDA"
    else:
        remedy = "install NVIDIA's driver, or start the container with its GPUs (--nv, --gpus all)"
    raise UserError(
        f"this job was given GPUs ({', '.join(given)}), and torch cannot use them (driver: {driver}; torch {version}, "
        f"its CUDA: {cuda}; {reason}): {remedy}, or let the CPU work by the model's `needs: {{gpus: 0}}`."
    )


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
