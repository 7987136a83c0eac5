"""One of several processes that train a model together: the launcher starts `python -m moult.training.worker`."""

import logging
import os
import sys
import threading
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import read_json, write_text_atomic


def _work(folder):
    """Do this process' share of the work in `folder`."""
    import deepspeed

    from moult.training.tasks import task_of
    from moult.training.trainer import run_trainer

    if os.environ.get("DS_ACCELERATOR") == "cpu":
        # Else each process looks for compilers and builds an op that only inference uses (25 s, and g++).
        deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    rank = int(os.environ["RANK"])
    form = f"%(asctime)s process {rank}: %(message)s"
    logging.basicConfig(level=logging.WARNING if rank else logging.INFO, format=form, datefmt="%H:%M:%S", force=True)
    try:
        work = read_json(folder / "work.json")
        run_trainer(task_of(work["recipe"], work["base"], work.pop("shown")), **work)
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
