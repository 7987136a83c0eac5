"""lm-eval's tasks put to a model in this process, as the job of `run_lm_eval` does it."""

import json
import shutil
from pathlib import Path

from moult.inference.asking import Asker, EnginePool
from pico_build import Folder, write_config
from sources import REVISION, Hub, serving

REFERENCE = Path(__file__).parent / "reference" / "lm_eval"
SEEDS = {"random": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
COMPUTE = {"engine": "transformers", "dtype": "float32", "batch_size": 4, "threads": 1}


def recipe(*tasks, **more):
    """Return the recipe of a run, with lm-eval's own defaults."""
    settings = {"num_fewshot": None, "apply_chat_template": False, "fewshot_as_multiturn": True, "limit": None}
    settings |= {"system_instruction": None, "samples": {}, "gen_kwargs": {}, "bootstrap_iters": 100_000}
    settings |= {"seeds": SEEDS, "confirm_run_unsafe_code": False, "include": ["tasks"], "data": []}
    return {"suite": "s", "model": "m", "tasks": list(tasks), "compute": COMPUTE} | settings | more


def copy_reference(folder):
    """Put tasks, rows and model of the reference into a folder, and a manifest beside the model."""
    for name in ("tasks", "data", "model"):
        shutil.copytree(REFERENCE / name, folder / name)
    (folder / "model.manifest.json").write_text(json.dumps({"content": "x"}))


def put(recipe, journal="journal.sqlite", compute=COMPUTE, model="model"):
    """Return lm-eval's results for the model in the working directory; answers are kept in the journal."""
    from moult.evaluation.lm_eval_run import evaluate

    pool = EnginePool(Path(journal))
    asker = Asker({"name": "m", "serve": "m", "compute": compute}, pool, None, model, f"{model}.manifest.json")
    try:
        return evaluate(recipe, Path(model), {"scoring": asker, "writing": asker}, {})
    finally:
        pool.close()


class Benchmarks(Folder):
    """A working directory whose hub is the folder `hub` in it, as long as something is asked of it."""

    def snakemake(self, *arguments):
        Hub.folder, Hub.requests = self.path / "hub", []
        lean = self.environment()
        with serving(Hub) as endpoint:
            online = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(self.path / "home"), "HF_ENDPOINT": endpoint}
            self.environment = lambda: lean | online
            try:
                return super().snakemake(*arguments)
            finally:
                del self.environment


def benchmark_config():
    """Two models on tasks of a folder, of Moult, and of a repository of the hub, the first against the second."""
    return {
        "name": "academic",
        "compute": COMPUTE,
        "models": [
            {"name": name, "fetch": {"path": path}, "parameters": 0.0001, "license": "CC0-1.0"}
            for name, path in (("taught", "model"), ("random", "other"))
        ],
        "suites": [
            {
                "name": "hard",
                "lm_eval": {
                    "tasks": ["kinds", "pico_sums", "far"],
                    "include": ["tasks"],
                    "limit": 6,
                    "num_fewshot": 1,
                    "data": [{"hub": "org/rows", "revision": REVISION, "files": ["data"]}],
                },
            }
        ],
        "evaluations": [{"suite": "hard", "models": ["taught", "random"], "against": "random"}],
    }


def write_benchmarks(folder):
    """Put what the config names into a folder, and the repository of the hub into `hub` beside it."""
    from pico import build_pico_model

    copy_reference(folder)
    (folder / "model.manifest.json").unlink()
    build_pico_model(folder / "other", seed=5)
    far = (REFERENCE / "tasks" / "pico_cloze.yaml").read_text().replace("pico_cloze", "far")
    kept = [line for line in far.splitlines() if "data" not in line or "metadata" in line]
    (folder / "tasks" / "far.yaml").write_text("\n".join([*kept, "dataset_path: org/rows", "dataset_name: cloze"]))
    (folder / "hub" / "data").mkdir(parents=True)
    shutil.copy(REFERENCE / "data" / "cloze_test.jsonl", folder / "hub" / "data" / "test.jsonl")
    (folder / "hub" / "README.md").write_text(
        "---\nconfigs:\n- config_name: cloze\n  data_files: [{split: test, path: data/test.jsonl}]\n---\nRows.\n"
    )
    (folder / "hub" / "large.bin").write_bytes(b"not asked for")
    write_config(folder / "pico.yaml", benchmark_config())
