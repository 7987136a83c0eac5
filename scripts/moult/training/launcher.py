"""Several processes that train one model together, each on a device of its own, with DeepSpeed between them."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import write_json
from moult.base.paths import CODE, RESOURCES
from moult.jobs.gpus import LOCKS
from moult.jobs.slurm import allocated

SETTINGS = RESOURCES / "deepspeed"


def deepspeed_settings(zero: int) -> dict[str, Any]:
    """Return DeepSpeed's settings of a ZeRO stage (2 or 3); settings that the recipe holds too are `auto` there."""
    return json.loads((SETTINGS / f"zero{zero}.json").read_text(encoding="utf-8"))


def train_together(devices: int, work: Mapping[str, Any], folder: Path) -> None:
    """Run `trainer.run_trainer` on `work`, its arguments, in `devices` processes; if one ends badly, all are ended.

    `work` has, in place of the task, the datasets whose videos it shows: each process makes its own task.

    They are processes of this machine, or of all nodes of the Slurm job that this one belongs to, where it has several.
    They print where this process prints. `folder` is where they find their work, and where a UserError of one of them
    comes back as its sentence. UserError too when there are fewer GPUs than `devices` (a machine without GPUs trains on
    its CPU).
    """
    import torch
    from torch.distributed import TCPStore

    nodes, processors = allocated()
    here = devices // nodes
    if devices % nodes:
        raise UserError(f"devices is {devices}, which {nodes} nodes cannot share evenly; change one of them.")
    if 0 < torch.cuda.device_count() < here:
        raise UserError(f"devices is {here} on each node, but this job sees {torch.cuda.device_count()} GPUs.")
    write_json(folder / "work.json", work)
    (folder / "error.txt").unlink(missing_ok=True)
    # Other nodes know this one by its name.
    address = "127.0.0.1" if nodes == 1 else socket.gethostname()
    # The system chooses the port, and this process keeps it: no worker can find it taken.
    store = TCPStore(address, 0, is_master=True, wait_for_workers=False)
    shared = {
        "WORLD_SIZE": devices,
        "LOCAL_WORLD_SIZE": here,
        "MASTER_ADDR": address,
        "MASTER_PORT": store.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "PYTHONWARNINGS": "ignore::FutureWarning",
        "PYTHONPATH": os.pathsep.join([str(CODE), os.environ.get("PYTHONPATH", "")]),
    } | ({} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"})
    command = [sys.executable, "-m", "moult.training.worker", str(folder)]
    if nodes == 1:
        starts = [(command, {"RANK": rank, "LOCAL_RANK": rank}) for rank in range(devices)]
    else:
        starts = [(_on_all_nodes(nodes, devices, processors) + command, {})]
    workers = []
    try:
        for words, own in starts:
            environment = os.environ | {name: str(value) for name, value in (shared | own).items()}
            workers.append(subprocess.Popen(words, stdin=subprocess.PIPE, env=environment, pass_fds=LOCKS))
        while None in (ended := [worker.poll() for worker in workers]) and not any(ended):
            time.sleep(0.1)
    finally:
        for worker in workers:
            _end(worker)
    if any(ended):
        if (folder / "error.txt").exists():
            raise UserError((folder / "error.txt").read_text(encoding="utf-8"))
        rank, status = next((rank, status) for rank, status in enumerate(ended) if status)
        raise UserError(f"process {rank} of the {devices} that train together ended with status {status}; see above.")


def _on_all_nodes(nodes, devices, processors):
    """Return the words that start processes on all nodes of this Slurm job, each with its share of the processors."""
    return [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={devices}",
        f"--ntasks-per-node={devices // nodes}",
        f"--cpus-per-task={max(1, processors // devices)}",
        # All of the job's.
        "--mem=0",
        "--kill-on-bad-exit=1",
    ]


def _end(worker):
    """End a process. `srun` is asked first: killed outright, it could not end what it started on other nodes."""
    if worker.poll() is None and worker.args[0] == "srun":
        worker.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(20)
    worker.kill()
    worker.wait()
