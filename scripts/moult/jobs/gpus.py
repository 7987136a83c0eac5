"""Which GPUs a job may use: on one machine, device ids that no other job has, held by locks that end with the job."""

import contextlib
import fcntl
import os
import random
import re
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from moult.base.errors import UserError
from moult.jobs.slurm import allocation

# Looked at again after about so many seconds, while others hold what a job waits for, and no longer than PATIENCE.
PAUSE = 0.1
PATIENCE = 86400.0
# Where NVIDIA's driver tells of itself.
PROC = "/proc/driver/nvidia"
# Set where devices are pretended, as in tests: what was given GPUs then works on the CPU.
PRETENDED = "MOULT_PRETENDED_GPUS"
# File descriptors of the locks of this process. The processes that it starts for its work hold them, too, so that
# a device is not free before the last of them has left it.
LOCKS: list[int] = []


def visible_devices(proc: str | Path = PROC, dev: str | Path = "/dev") -> dict[str, str]:
    """Return {name: what CUDA_VISIBLE_DEVICES calls it} of the GPUs that this process may use.

    The name is the UUID, by which a card is the same inside and outside of a container and under every limit; the
    number, where the driver tells no UUID. CUDA_VISIBLE_DEVICES limits the devices to numbers, to UUIDs or beginnings
    of them, and to parts of a card (`MIG-…`); as for CUDA, what follows a word of another kind, or a number past the
    last card, is left out. Without it they are all cards that have a device file, called by their place on the bus
    (CUDA_DEVICE_ORDER), because some releases of vLLM take numbers alone. Costs no import and no driver call.
    """
    cards = _cards(Path(proc), dev)
    limited = os.environ.get("CUDA_VISIBLE_DEVICES")
    if limited is None:
        return {name: str(number) for number, name in enumerate(cards)}
    # By default CUDA counts the fastest card first, and only equal ones are known to be counted by their place.
    by_place = len(set(cards.values())) <= 1 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    found = {}
    for word in map(str.strip, limited.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-.+", word) or (word.isdigit() and 0 < len(cards) <= int(word)):
            break
        if word.isdigit():
            whole = [list(cards)[int(word)]] if cards and by_place else []
        else:
            whole = [name for name in cards if name.startswith(word)]
        found[whole[0] if len(whole) == 1 else word] = word
    return found


def _cards(proc, dev):
    """Return {UUID, or number of the device file: model} of the cards that have a device file, by place on the bus."""
    files = [name.removeprefix("nvidia") for name in os.listdir(dev) if re.fullmatch(r"nvidia\d+", name)]
    told = {}
    for file in sorted(proc.glob("gpus/*/information")):
        text = file.read_text(errors="replace")
        facts = dict(re.findall(r"^(Model|GPU UUID|Device Minor):\s*(.*\S)", text, re.MULTILINE))
        minor, uuid = facts.get("Device Minor", ""), facts.get("GPU UUID", "?")
        # Before the card is first used, question marks stand for its digits.
        told[minor] = minor if "?" in uuid else uuid, facts.get("Model", "")
    if not set(files) <= told.keys():
        told = {minor: (minor, "") for minor in sorted(files, key=int)}
    return dict(card for minor, card in told.items() if minor in files)


@contextlib.contextmanager
def leased(
    count: int, tell: Callable[[str], None], folder: Path | None = None, patience: float = PATIENCE
) -> Iterator[list[str]]:
    """Hold `count` GPUs alone while the block runs: CUDA_VISIBLE_DEVICES has them, and the block gets their names.

    Snakemake counts GPUs but hands out no ids. Each device is a lock file in `folder`, which all jobs of the machine
    share, whoever started them; a lock ends with the last process that holds it, however the process ends. While too
    few are free the job waits, holding none, and `tell` says so once. No GPU on this machine, or a scheduler that has
    chosen: nothing is held, and the list is empty. UserError when the machine has fewer than `count`, when they are not
    free within `patience` seconds, and when no folder can be trusted.
    """
    devices = visible_devices()
    if not count or not devices or allocation():
        yield []
        return
    if len(devices) < count:
        raise UserError(f"the job needs {count} GPUs, and this machine shows {len(devices)} ({', '.join(devices)}).")
    folder = folder or shared_folder()
    begun, told = time.monotonic(), False
    while not (held := _acquire(folder, devices, count)):
        if not told:
            tell(f"waiting for {count} of the GPUs {', '.join(devices)}: other jobs have them ({folder})")
            told = True
        if time.monotonic() - begun > patience:
            raise UserError(
                f"the job needs {count} GPUs, and others have had {', '.join(devices)} for {patience / 3600:.0f} hours "
                f"(`lsof {folder}/*` names them); end them, or run again later."
            )
        # Not in step with another job that waits for several.
        time.sleep(PAUSE * random.uniform(0.5, 1.5))
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


def shared_folder() -> Path:
    """Return the folder of locks that all users of this machine share, or else one of this user alone.

    It is in the system's temporary place, where anybody may have made it first: it is used if it is a folder, no link,
    and this user's, the system's, or one from which nobody may remove another's files. UserError if neither is.
    """
    places = [Path(tempfile.gettempdir(), name) for name in ("moult-gpus", f"moult-gpus-{os.getuid()}")]
    for place, mode in zip(places, (0o1777, 0o700), strict=True):
        with contextlib.suppress(FileExistsError):
            os.mkdir(place, 0o700)
            # Just made here: what exists keeps its mode.
            made = os.open(place, os.O_DIRECTORY | os.O_NOFOLLOW)
            os.fchmod(made, mode)
            os.close(made)
        found = os.lstat(place)
        ours = found.st_uid in (0, os.getuid()) or (place == places[0] and found.st_mode & stat.S_ISVTX)
        if stat.S_ISDIR(found.st_mode) and ours and os.access(place, os.R_OK | os.W_OK | os.X_OK):
            return place
    raise UserError(
        f"{places[0]} and {places[1]}: are no folders of this user, so that nothing there tells which GPUs are free; "
        "have them removed, or export TMPDIR as a folder of your own."
    )


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


def _open(path):
    """Return a descriptor of a lock file, made where there is none; UserError where something else has its name."""
    try:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
            # Readable is enough for a lock, whatever this user's umask.
            os.fchmod(handle, 0o644)
        except FileExistsError:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        found = os.fstat(handle)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            return handle
        os.close(handle)
        reason = "it is no plain file, or has a second name"
    except OSError as error:
        reason = error.strerror
    raise UserError(
        f"{path}: does not serve as lock of a GPU ({reason}); have it removed, or export TMPDIR "
        "as a folder of your own, then run again."
    )
