"""Several processes that train one model together, each on a device of its own, with DeepSpeed between them."""

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from moult.devices import LOCKS
from moult.errors import UserError
from moult.files import read_json, write_json, write_text_atomic
from moult.slurm import allocated

SETTINGS = Path(__file__).parents[2] / "resources" / "deepspeed"


def deepspeed_settings(zero):
    """Return DeepSpeed's settings of a ZeRO stage (2 or 3); what the recipe says too is `auto` there."""
    return json.loads((SETTINGS / f"zero{zero}.json").read_text(encoding="utf-8"))


def train_together(devices, work, folder):
    """Run `training.run_trainer(**work)` in `devices` processes; if one ends badly, all are ended.

    They are processes of this machine, or of all nodes of the Slurm job that this one belongs to, where it has several.
    They print where this process prints. `folder` is where they find their work, and where a UserError of one of them
    comes back as its sentence. UserError too when there are fewer GPUs (a machine without any trains on its CPU).
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
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    } | ({} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"})
    command = [sys.executable, "-m", "moult.distributed", folder]
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


def _work(folder):
    """Do this process' share of the work in `folder`."""
    import deepspeed

    from moult.training import run_trainer

    if os.environ.get("DS_ACCELERATOR") == "cpu":
        # Else each process looks for compilers and builds an op that only inference uses (25 s, and g++).
        deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    rank = int(os.environ["RANK"])
    form = f"%(asctime)s process {rank}: %(message)s"
    logging.basicConfig(level=logging.WARNING if rank else logging.INFO, format=form, datefmt="%H:%M:%S", force=True)
    try:
        run_trainer(**read_json(folder / "work.json"))
    except UserError as error:
        write_text_atomic(folder / "error.txt", str(error))
        # Not by way of the process group's own end, which would wait for the others.
        os._exit(1)
    deepspeed.comm.destroy_process_group()


def _end_with_parent():
    """End this process when the other end of its standard input closes: when the job has ended, however it did."""
    os.read(0, 1)
    os._exit(1)


def _take_rank_from_slurm():
    """Where `srun` started this process, Slurm has numbered it."""
    os.environ.setdefault("RANK", os.environ.get("SLURM_PROCID", "0"))
    os.environ.setdefault("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))


if __name__ == "__main__":
    _take_rank_from_slurm()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work(Path(sys.argv[1]))
