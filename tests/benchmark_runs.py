"""lm-eval's tasks put to a model in this process, as the job of `run_lm_eval` does it."""

import json
import shutil
from pathlib import Path

from moult.inference.asking import Asker, EnginePool

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
