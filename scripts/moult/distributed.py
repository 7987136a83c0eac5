"""Several processes that train one model together, each on a device of its own, with DeepSpeed between them."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from moult.errors import UserError
from moult.files import read_json, write_json, write_text_atomic

SETTINGS = Path(__file__).parents[2] / "resources" / "deepspeed"


def deepspeed_settings(zero):
    """Return DeepSpeed's settings of a ZeRO stage (2 or 3); what the recipe says too is `auto` there."""
    return json.loads((SETTINGS / f"zero{zero}.json").read_text(encoding="utf-8"))


def train_together(devices, work, folder):
    """Run `training.run_trainer(**work)` in `devices` processes of this machine; if one ends badly, all are ended.

    They print where this process prints. `folder` is where they find their work, and where a UserError of one of them
    comes back as its sentence. UserError too when there are fewer GPUs (a machine without any trains on its CPU).
    """
    import torch
    from torch.distributed import TCPStore

    if 0 < torch.cuda.device_count() < devices:
        raise UserError(f"devices is {devices}, but this job sees {torch.cuda.device_count()} GPUs.")
    write_json(folder / "work.json", work)
    (folder / "error.txt").unlink(missing_ok=True)
    # The system chooses the port, and this process keeps it: no worker can find it taken.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "WORLD_SIZE": devices,
        "LOCAL_WORLD_SIZE": devices,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": store.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "PYTHONWARNINGS": "ignore::FutureWarning",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    } | ({} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"})
    command = [sys.executable, "-m", "moult.distributed", folder]
    workers = []
    try:
        for rank in range(devices):
            settings = {name: str(value) for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | settings))
        while None in (ended := [worker.poll() for worker in workers]) and not any(ended):
            time.sleep(0.1)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    if any(ended):
        if (folder / "error.txt").exists():
            raise UserError((folder / "error.txt").read_text(encoding="utf-8"))
        rank, status = next((rank, status) for rank, status in enumerate(ended) if status)
        raise UserError(f"process {rank} of the {devices} that train together ended with status {status}; see above.")


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


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work(Path(sys.argv[1]))
