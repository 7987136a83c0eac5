"""One machine with four pretended GPUs and six jobs: never two on one device, none idle while a job waits."""

import re
import signal
from os import kill

from moult.jobs.gpus import PRETENDED
from pico_build import ROOT, Folder
from processes import kill_group, wait_for

NAMES = [f"tuned_{number}" for number in range(6)]


class GpuFolder(Folder):
    def command(self, *arguments):
        base = super().command(*arguments)
        place = base.index("--cores")
        return [*base[:place], "--profile", ROOT / "profiles" / "local", "--cores", "8", *base[place + 2 :]]

    def environment(self):
        return super().environment() | {"CUDA_VISIBLE_DEVICES": "0,1,2,3", PRETENDED: "1"}

    def devices(self):
        """Return {job: device} of the jobs that have been given one, finished or not."""
        found = {}
        for path in (self.path / "logs/pico/finetune_lora").glob("tuned_*.log"):
            if given := re.search(r" GPU (\S+)$", path.read_text(), re.MULTILINE):
                found[path.stem] = given[1]
        return found

    def process(self, name):
        return int(re.search(r"process (\d+)", (self.path / f"scratch/locks/finetune_lora/{name}.lock").read_text())[1])


def test_each_device_has_one_job_and_a_freed_one_the_next(copied):
    folder = GpuFolder(copied.path, copied.server)
    config = folder.config
    tuned = config["models"][2]
    config["models"] += [tuned | {"name": name, "needs": {"gpus": 1}} for name in NAMES]
    folder.config = config
    targets = [f"results/pico/adapters/{name}" for name in NAMES]
    build = folder.start(*targets)
    try:
        frozen, seen = [], {}
        for turn in range(6):
            # Four at first; then one more, each time that a device is freed. Whoever has a device is held there.
            wait_for(lambda turn=turn: len(folder.devices()) >= min(4 + turn, 6))
            for name in sorted(folder.devices().keys() - seen.keys()):
                seen[name] = folder.devices()[name]
                kill(folder.process(name), signal.SIGSTOP)
                frozen.append(name)
            assert len(frozen) == min(4, 6 - turn)
            # Never two on one device; and every device has a job as long as there are enough of them.
            assert len({seen[name] for name in frozen}) == len(frozen)
            leaves = frozen.pop(0)
            if turn == 1:
                # A killed job frees its device, too.
                kill(folder.process(leaves), signal.SIGKILL)
                killed = leaves
            else:
                kill(folder.process(leaves), signal.SIGCONT)
            if turn < 2:
                wait_for(lambda turn=turn: len(folder.devices()) == 5 + turn)
                (new,) = folder.devices().keys() - seen.keys()
                assert folder.devices()[new] == seen[leaves]
        assert build.wait(120) != 0
    finally:
        if build.poll() is None:
            kill_group(build)
    missing = [name for name in NAMES if not (folder.path / f"results/pico/adapters/{name}.manifest.json").exists()]
    assert missing == [killed]
    assert folder.snakemake(*targets).returncode == 0
