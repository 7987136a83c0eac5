"""The job of run_lm_eval: tasks of lm-eval put to one model, by lm-eval itself."""

import json
import logging
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moult.base.errors import UserError, nearest
from moult.base.files import whole_file, write_text_atomic
from moult.base.rows import Recipe
from moult.base.stage import Job
from moult.evaluation.lm_eval_tasks import entries_of, folders_of, hub_of, known_tasks, located
from moult.inference import asking
from moult.inference.asking import Asker, EnginePool

# Of a run, not of its results: they would be other bytes each time.
PASSING = ("date", "git_hash", "upper_git_hash", "pretty_env_info", "total_evaluation_time_seconds")
# What lm-eval raises where a task's file is wrong.
OF_TASKS = (KeyError, TypeError, ValueError, AttributeError, IndexError, AssertionError, ImportError, OSError)
# What fails in here is no task's fault.
ENGINES = str(Path(asking.__file__).parent)
logger = logging.getLogger(__name__)


def manager_of(recipe: Recipe, data: Mapping[str, str]) -> Any:
    """Return lm-eval's TaskManager, which finds the rows of tasks in files of this machine.

    recipe: include, the folders of further tasks. data: repository of the hub → folder with its files.
    """
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._factory import TaskFactory

    class Factory(TaskFactory):
        def _load_full_config(self, entry: Any, overrides: dict | None = None) -> dict:
            config = super()._load_full_config(entry, overrides)
            return placed(config, entry.yaml_path, data)

    # Thousands of tasks come with lm-eval: they are looked through only where one of them is meant.
    own = known_tasks(recipe["include"])
    all_own = all(name in own for entry in entries_of(recipe["tasks"], own) for name in entry.members or ())
    manager = TaskManager(
        include_path=[str(one) for one in folders_of(recipe["include"]) if one.is_dir()],
        include_defaults=not (all_own and all(name in own for name in recipe["tasks"])),
    )
    manager._factory = Factory(meta=manager.metadata)
    return manager


def placed(config: dict[str, Any], path: Path | None, data: Mapping[str, str]) -> dict[str, Any]:
    """Return a task's settings with its rows in files of this machine; UserError where it wants the hub."""
    if hub := hub_of(config):
        if hub not in data:
            raise UserError(
                f"task {config.get('task')!r} wants {hub} of the hub; name it under the suite's `data`, with its "
                "revision."
            )
        return config | {"dataset_path": data[hub]}
    kwargs = config.get("dataset_kwargs") or {}
    if path is None or "data_files" not in kwargs:
        return config

    def found(value):
        if isinstance(value, dict):
            return {key: found(one) for key, one in value.items()}
        return [found(one) for one in value] if isinstance(value, list) else located(value, path)

    return config | {"dataset_kwargs": kwargs | {"data_files": found(kwargs["data_files"])}}


def load_tasks(recipe: Recipe, manager: Any) -> list[Any]:
    """Return lm-eval's objects of the tasks and groups of a recipe, in its order. UserError where one cannot be had."""
    found: dict[str, Any] = {}
    for name in recipe["tasks"]:
        if name not in manager.task_index:
            raise UserError(f"lm-eval has no task {name!r}{nearest(name, manager.all_tasks)}.")
        try:
            loaded = manager.load([name])
        except UserError:
            raise
        except Exception as error:  # whatever a task's file, its code, or the reader of its rows raises
            raise _of_task(name, error) from error
        found |= {name: loaded["groups"][name]} if name in loaded["groups"] else loaded["tasks"]
    return list(found.values())


def _of_task(name, error):
    told = " ".join(str(error).split())
    return UserError(f"task {name!r} cannot be had ({type(error).__name__}: {told[:300]}); correct its file.")


def evaluate(recipe: Recipe, folder: Path, askers: Mapping[str, Asker], data: Mapping[str, str]) -> dict[str, Any]:
    """Return lm-eval's results with `samples`, and what its own command writes beside: hashes of tasks and template.

    recipe: see `lm_eval_suite`. folder: of the model. askers: scoring and writing. data: see `manager_of`.
    """
    import jinja2
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.utils import hash_string

    from moult.evaluation.lm_eval_model import JournalModel, template_of

    model = JournalModel(folder, **askers, seed=recipe["seeds"]["torch"])
    manager = manager_of(recipe, data)
    tasks = load_tasks(recipe, manager)
    known = manager.load(tasks)["tasks"]
    own = {name: task.get_config("num_fewshot") for name, task in known.items()}
    template = template_of(model, recipe["apply_chat_template"])
    if recipe["apply_chat_template"] and not template:
        raise UserError(
            f"model {recipe['model']!r} has no chat template; give it one where it is fetched, or leave "
            "`apply_chat_template` out."
        )
    try:
        results = simple_evaluate(
            model,
            tasks=tasks,
            task_manager=manager,
            num_fewshot=recipe["num_fewshot"],
            limit=recipe["limit"],
            samples=recipe["samples"] or None,
            bootstrap_iters=recipe["bootstrap_iters"],
            system_instruction=recipe["system_instruction"],
            apply_chat_template=recipe["apply_chat_template"],
            fewshot_as_multiturn=recipe["fewshot_as_multiturn"],
            gen_kwargs=recipe["gen_kwargs"] or None,
            confirm_run_unsafe_code=recipe["confirm_run_unsafe_code"],
            random_seed=recipe["seeds"]["random"],
            numpy_random_seed=recipe["seeds"]["numpy"],
            torch_random_seed=recipe["seeds"]["torch"],
            fewshot_random_seed=recipe["seeds"]["fewshot"],
        )
    except UserError:
        raise
    except (*OF_TASKS, jinja2.TemplateError) as error:
        if any(frame.filename.startswith(ENGINES) for frame in traceback.extract_tb(error.__traceback__)):
            raise
        logger.info("lm-eval cannot evaluate", exc_info=True)
        raise _of_task(", ".join(recipe["tasks"]), error) from error
    results = {key: value for key, value in results.items() if key not in PASSING}
    results["config"]["model"] = recipe["model"]
    for config in results["configs"].values():
        # No path of this machine.
        source = (config.get("metadata") or {}).get("config_source")
        config["metadata"] = config.get("metadata") and config["metadata"] | {"config_source": Path(source or "").name}
    hashes = {
        name: hash_string("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows))
        for name, rows in results["samples"].items()
    }
    system, multiturn = recipe["system_instruction"], recipe["fewshot_as_multiturn"] if template else None
    return results | {
        "task_hashes": hashes,
        "own_shots": own,
        "cut": model.cut,
        "chat_template": template,
        "chat_template_sha": hash_string(template) if template else None,
        "system_instruction": system,
        "system_instruction_sha": hash_string(system) if system else None,
        "fewshot_as_multiturn": multiturn,
    }


def sample_rows(samples: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the samples of all tasks as rows of one file, each as lm-eval writes it, and its `task` before that."""
    from lm_eval.utils import sanitize_list

    return [
        {"task": task}
        | row
        | {
            "target": str(row["target"]),
            "arguments": {
                f"gen_args_{number}": {f"arg_{place}": one for place, one in enumerate(given)}
                for number, given in enumerate(row["arguments"])
            },
            "resps": sanitize_list(row["resps"]),
            "filtered_resps": sanitize_list(row["filtered_resps"]),
        }
        for task, rows in samples.items()
        for row in rows
    ]


def run(job: Job) -> None:
    """Do the job of run_lm_eval."""
    # Read when the libraries are imported: whatever a task wants was fetched before.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"HF_DATASETS_CACHE": str(job.scratch.absolute() / "datasets")}
    if job.threads == 1:
        # The bootstrap of lm-eval takes all processors of the machine otherwise.
        os.environ["DISABLE_MULTIPROC"] = "1"
    recipe, pool = job.recipe, EnginePool(job.journal)
    data = {one["hub"]: one["path"] or str(Path(job.inputs.fetched, one["hub"])) for one in recipe["data"]}
    askers = {}
    for part in ("scoring", "writing"):
        endpoint = {"name": recipe["model"], "serve": recipe["model"]}
        endpoint["compute"] = recipe["compute"] | {"engine": recipe["engines"][part]}
        askers[part] = Asker(endpoint, pool, None, job.inputs.model, job.inputs.model_manifest)
    try:
        results = evaluate(recipe, Path(job.inputs.model), askers, data)
    finally:
        pool.close()
    from lm_eval.utils import handle_non_serializable

    rows = sample_rows(results.pop("samples"))
    with whole_file(job.outputs.samples) as handle:
        for row in rows:
            handle.write(json.dumps(row, default=handle_non_serializable, ensure_ascii=False) + "\n")
    text = json.dumps(results, indent=2, default=handle_non_serializable, ensure_ascii=False, sort_keys=True)
    write_text_atomic(job.outputs.results, text + "\n")
    job.used = {str(path): ["."] for path in job.inputs.get("files", [])}
    job.facts = {"rows": len(rows), "tasks": len(results["task_hashes"]), "cut": results["cut"]}
