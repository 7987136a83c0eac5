"""lm-eval through our engines and journal: its own numbers, asked once; what is wrong with a task is one sentence."""

import json
import math
import os
import random
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import pytest
from benchmark_runs import COMPUTE, REFERENCE, copy_reference, put, recipe
from moult.base.errors import UserError
from moult.config.load import load
from moult.evaluation import lm_eval_scores as scores
from moult.evaluation.lm_eval_tables import suite_tables
from moult.evaluation.suites import LM_EVAL
from moult.inference.engines.transformers import TransformersEngine
from moult.inference.journal import Journal

ROOT = Path(__file__).parents[3]
# What a run says of itself, its machine and its command line.
PASSING = {"date", "pretty_env_info", "git_hash", "upper_git_hash", "total_evaluation_time_seconds"}
PASSING |= {"config", "configs", "transformers_version", "model_source", "model_name", "model_name_sanitized"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with the reference's tasks, rows and model, which is the working directory."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("benchmarks")
    copy_reference(folder)
    with chdir(folder), pytest.MonkeyPatch.context() as patched:
        patched.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        patched.setenv("DISABLE_MULTIPROC", "1")
        yield folder


@pytest.fixture(scope="module")
def plain(study):
    return put(recipe("pico", "pico_words", "pico_sums"))


def is_close(ours, theirs):
    """Whether two values of results are equal, numbers but for float noise."""
    if isinstance(theirs, dict):
        return all(is_close(ours[key], theirs[key]) for key in theirs.keys() - PASSING)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(is_close, ours, theirs))
    if isinstance(theirs, str) and isinstance(ours, str) and ours != theirs:
        # lm-eval writes log-likelihoods as text.
        return math.isclose(float(ours), float(theirs), rel_tol=1e-5, abs_tol=1e-5)
    if isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-5, abs_tol=1e-5)
    return ours == theirs


def assert_equal_to_reference(results, name):
    from lm_eval.utils import handle_non_serializable
    from moult.evaluation.lm_eval_run import sample_rows

    wanted = json.loads((REFERENCE / "results" / name / "results.json").read_text())
    assert is_close(results, wanted)
    rows = json.loads(json.dumps(sample_rows(results["samples"]), default=handle_non_serializable))
    for task in results["samples"]:
        lines = (REFERENCE / "results" / name / f"samples_{task}.jsonl").read_text().splitlines()
        assert is_close([row for row in rows if row["task"] == task], [json.loads(line) for line in lines])


def test_the_numbers_prompts_and_hashes_are_those_of_lm_eval(plain):
    assert_equal_to_reference(plain, "plain")
    assert plain["chat_template_sha"] is None


def test_chats_and_other_shots_are_those_of_lm_eval_and_other_batches_change_nothing(study):
    compute = COMPUTE | {"batch_size": 7}
    chat = put(recipe("pico", "pico_sums", apply_chat_template=True, num_fewshot=1), "chat.sqlite", compute)
    assert_equal_to_reference(chat, "chat")
    assert chat["chat_template_sha"].startswith("6d8972f1")
    assert scores.marks_of({"limit": None, "samples": {}, "compute": COMPUTE}, chat, ["pico_sums"]) == [
        "1 shot instead of 2"
    ]


class Killed(Exception):
    pass


def test_a_run_that_is_killed_asks_for_no_answer_twice_and_a_new_task_only_for_its_own(study, plain, monkeypatch):
    asked, left = [], [0]
    score, complete = TransformersEngine._score, TransformersEngine._complete

    def count(prompts, labels):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        asked.extend((tuple(ids), tuple(one)) for ids, row in zip(prompts, labels, strict=True) for one in row)

    def scored(self, prompts, labels, requests):
        count(prompts, labels)
        return score(self, prompts, labels, requests)

    def completed(self, prompts, requests):
        count(prompts, [["text"]] * len(prompts))
        return complete(self, prompts, requests)

    monkeypatch.setattr(TransformersEngine, "_score", scored)
    monkeypatch.setattr(TransformersEngine, "_complete", completed)
    loads = []
    load = TransformersEngine.__init__
    monkeypatch.setattr(TransformersEngine, "__init__", lambda self, *given: (loads.append(1), load(self, *given))[1])
    draw = random.Random(18)
    for _ in range(3):
        left[0] = draw.randint(1, 9)
        with pytest.raises(Killed):
            put(recipe("pico_choice", "pico_cloze", bootstrap_iters=0), "killed.sqlite")
    left[0] = 0
    found = put(recipe("pico_choice", "pico_cloze", bootstrap_iters=0), "killed.sqlite")
    assert found["results"]["pico_choice"]["acc,none"] == 0.875
    assert len(asked) == len(set(asked))
    before = len(asked)
    assert put(recipe("pico_choice", bootstrap_iters=0), "killed.sqlite")["task_hashes"]
    assert len(asked) == before and len(loads) == 4
    put(recipe("pico_choice", "pico_sums", bootstrap_iters=0), "killed.sqlite")
    assert len(asked) == before + 24 and len(loads) == 5


def test_the_journal_holds_each_answer_by_its_tokens(plain, study):
    with Journal(Path("journal.sqlite")) as journal:
        (count,) = journal.connection.execute("SELECT COUNT(*) FROM answers").fetchone()
    # Of 32 documents with four choices, 24, 10 and 24, some occur twice.
    assert 150 < count <= 32 * 4 + 24 + 10 + 24


@pytest.mark.parametrize(
    ("tasks", "more", "said"),
    [
        (["pico_chioce"], {}, "lm-eval has no task 'pico_chioce'; did you mean 'pico_choice'?"),
        (["pico_cloze"], {"apply_chat_template": True}, "model 'm' has no chat template"),
        (["broken"], {}, "task 'broken' cannot be had (TypeError: "),
        (["strange"], {}, "'qestion' is undefined"),
        (["far"], {}, "task 'far' wants owner/rows of the hub; name it under the suite's `data`"),
        (["pico_sums"], {"gen_kwargs": {"num_beams": 4}}, "generates with num_beams 4, which is not known here"),
        (["pico_sums"], {"gen_kwargs": {"max_gen_toks": 512}}, "wants answers of 512 tokens, and the model takes 512"),
    ],
)
def test_what_is_wrong_is_one_sentence(study, tmp_path, tasks, more, said):
    sums = (study / "tasks" / "pico_sums.yaml").read_text().replace("data/", f"{study}/data/")
    (tmp_path / "broken.yaml").write_text(sums.replace("pico_sums", "broken") + "doc_to_txt: x\n")
    (tmp_path / "strange.yaml").write_text(sums.replace("pico_sums", "strange").replace("{{question}}", "{{qestion}}"))
    (tmp_path / "far.yaml").write_text("task: far\ndataset_path: owner/rows\ntest_split: test\ndoc_to_text: x\n")
    model = "model"
    if "apply_chat_template" in more:
        model = str(tmp_path / "plain")
        Path(model).mkdir()
        for path in (study / "model").iterdir():
            if path.name != "chat_template.jinja":
                (Path(model) / path.name).write_bytes(path.read_bytes())
        Path(f"{model}.manifest.json").write_text('{"content": "y"}')
    with pytest.raises(UserError) as told:
        put(recipe(*tasks, include=["tasks", str(tmp_path)], **more), str(tmp_path / "j.sqlite"), model=model)
    assert said in str(told.value) and "\n" not in str(told.value)


def test_a_model_without_a_tokenizer_is_one_sentence(study, tmp_path):
    (tmp_path / "mute").mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (tmp_path / "mute" / name).write_bytes((study / "model" / name).read_bytes())
    (tmp_path / "mute.manifest.json").write_text('{"content": "z"}')
    with pytest.raises(UserError, match="mute: has no tokenizer that can be read; put its files into the model"):
        put(recipe("pico_cloze"), str(tmp_path / "j.sqlite"), model=str(tmp_path / "mute"))


# ---------------------------------------------------------------- planning


def planned(**settings):
    raw = {"name": "x", "models": [{"name": "base", "fetch": {"path": "model"}, "parameters": 0.1}]}
    raw |= {"suites": [{"name": "s", "lm_eval": settings}], "evaluations": [{"suite": "s", "models": ["base"]}]}
    return load(raw, "c")


TASK = {"task": "mine", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}}
TASK |= {"test_split": "test", "output_type": "loglikelihood", "doc_to_text": "{{a}}", "doc_to_target": "{{b}}"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks": ["mnie"]}, "tasks: 'mnie' stands in no file here; did you mean 'mine'?; a task that comes with"),
        ({"tasks": ["mine"], "limit": 3, "samples": {"mine": [0]}}, "write `limit` or `samples`, not both"),
        ({"tasks": ["mine"], "bits": 4, "engines": {"writing": "vllm"}}, "bits: are of engine transformers"),
        ({"tasks": ["mine"], "limit": 1.5}, "limit 1.5: write a whole number of rows, or a share below 1"),
        ({"tasks": ["mine"], "data": [{"hub": "me/rows", "path": "nowhere"}]}, "nowhere is no folder on this machine"),
        ({"tasks": ["kinds"], "include": ["nowhere"]}, "include: nowhere is no folder on this machine"),
        ({"doc_to_txt": "x"}, "mine.yaml, task 'mine': 'doc_to_txt' is no setting of a task; did you mean"),
        ({"output_type": "loglikelyhood"}, "output_type 'loglikelyhood' is not one of"),
        ({"dataset_path": "me/rows"}, "wants me/rows of the hub; name it under the suite's `data`, with its revision"),
        ({"dataset_path": None}, "has no dataset_path; write `json` and its data_files"),
    ],
)
def test_planning_tells_what_lm_eval_would_refuse_late(tmp_path, monkeypatch, settings, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    own = {} if "tasks" in settings else settings
    (tmp_path / "tasks" / "mine.yaml").write_text(json.dumps(TASK | own))
    with pytest.raises(UserError) as told:
        planned(**{"include": ["tasks"]} | ({"tasks": ["mine"]} if own else settings))
    assert said in str(told.value) and str(told.value).count("\n") == 0


ODD = (None, 3, True, "", "x", "a/b", "me/rows", "*", "**x", [], [3], ["x"], [None], [[]], {}, {"task": []}, {"a": 1})


def test_a_task_s_file_of_anything_is_planned_or_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    draw, refused = random.Random(18), 0
    keys = [*TASK, "group", "tag", "include", "task_list", "metric_list", "num_fewshot", "class", "data_files"]
    for _ in range(400 if os.environ.get("MOULT_SOAK") else 80):
        task = json.loads(json.dumps(TASK))
        for key in draw.sample(keys, draw.choice((1, 1, 2, 4))):
            node = task["dataset_kwargs"] if key == "data_files" and "dataset_kwargs" in task else task
            (node if isinstance(node, dict) else task)[key] = draw.choice(ODD)
        (tmp_path / "tasks" / "mine.yaml").write_text(json.dumps(task))
        try:
            cfg = planned(include=["tasks"], tasks=["mine"], data=[{"hub": "me/rows"}])
            for stage in LM_EVAL.stages:
                for names in stage.names(cfg):
                    json.dumps(stage.recipe(cfg, *names))
                    stage.inputs(cfg, *names)
        except UserError:
            refused += 1
    assert 20 < refused < 380


def test_a_file_that_is_no_yaml_is_told_with_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lm_eval").mkdir()
    (tmp_path / "lm_eval" / "mine.yaml").write_text('task: mine\ndoc_to_text: "x\n')
    with pytest.raises(UserError, match=r"mine.yaml, line \d"):
        planned(tasks=["kinds"])


def test_the_files_of_the_tasks_are_inputs_and_those_that_come_with_moult_are_in_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Rows of the same name are not taken for those that belong to the task.
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cloze_test.jsonl").write_text("{}\n")
    (tmp_path / "lm_eval" / "rows").mkdir(parents=True)
    (tmp_path / "lm_eval" / "mine.yaml").write_text(
        json.dumps(TASK | {"include": "shared", "process_docs": "PLACE"}).replace('"PLACE"', "!function more.pick")
    )
    (tmp_path / "lm_eval" / "shared").write_text("metadata: {version: 2}\n")
    (tmp_path / "lm_eval" / "more.py").write_text("def pick(docs):\n    return docs\n")
    (tmp_path / "lm_eval" / "rows.jsonl").write_text('{"a": "x", "b": "y"}\n')
    cfg = planned(tasks=["mine", "kinds"])
    stage = next(one for one in LM_EVAL.stages if one.rule == "run_lm_eval")
    files = [one.path for one in stage.inputs(cfg, "s", "base")["files"]]
    assert files == ["lm_eval/mine.yaml", "lm_eval/more.py", "lm_eval/shared", "lm_eval/rows.jsonl"]
    names = {path.split("/", 1)[1] for path in stage.recipe(cfg, "s", "base")["shipped"]}
    wanted = {"kinds.yaml", "kinds_choice.yaml", "kinds_cloze.yaml"}
    assert names == wanted | {f"data/{name}.jsonl" for name in ("choice_test", "choice_shots", "cloze_test")}


def test_what_is_fetched_and_what_is_gated_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = [{"hub": "me/open"}, {"hub": "me/gated", "revision": "a" * 40, "token": "HF_TOKEN"}]
    cfg = planned(tasks=["arc_easy"], data=data)
    assert cfg.unpinned() == ["me/open"]
    assert cfg.hub_needs() == [
        "me/open: this hub dataset will be fetched for the tasks of 's'",
        "me/gated: this hub dataset, which is gated, will be fetched for the tasks of 's'",
        "me/gated: asks for your token in the environment variable HF_TOKEN, which you must set first",
    ]
    assert [names for one in LM_EVAL.stages for names in one.names(cfg)] == [("s",), ("s", "base"), ("s", "base")]


# ---------------------------------------------------------------- scores


def test_scores_are_rows_with_error_filter_direction_and_marks(plain):
    from moult.evaluation.lm_eval_run import sample_rows

    run = {"limit": 8, "samples": {}, "compute": COMPUTE | {"bits": 4}}
    rows = scores.score_rows({"suite": "s", "model": "m", "run": run}, plain, sample_rows(plain["samples"]))
    found = {(row["dataset"], row["metric"]): row for row in rows}
    assert len(found) == len(rows) == 10
    strict, group = found["pico_sums", "exact_match,strict-match"], found["pico", "acc"]
    assert (strict["value"], strict["n"], strict["stderr"], strict["higher_is_better"]) == (0, 24, 0, True)
    # Wilson's interval: no row was right, and still it might be one in seven.
    assert strict["ci_high"] == pytest.approx(0.137976) and strict["shots"] == 2 and strict["limit"] == 8
    assert (group["task"], group["n"]) == ("group", 56) and group["ci_high"] <= 1
    assert found["pico_cloze", "perplexity"]["higher_is_better"] is False
    assert found["pico_words", "word_perplexity"]["stderr"] is None
    assert {row["marks"] for row in rows} >= {"56 of 56 rows; weights in 4 bits"}


def sample(number, value, **more):
    row = {"task": "t", "doc_id": number, "filter": "none", "metrics": ["acc", "score"], "doc_hash": str(number)}
    return row | {"target_hash": "x", "acc": value, "score": 2.5 * value} | more


def test_differences_are_paired_over_equal_rows(tmp_path):
    ours = [1, 1, 1, 1, 1, 1, 1, 0, 1, 0]
    theirs = [0, 0, 0, 0, 0, 0, 0, 1, 1, 0]
    paths = {}
    for name, values in (("a", ours), ("b", theirs)):
        paths["s", name] = tmp_path / f"{name}.jsonl"
        rows = [sample(number, float(value)) for number, value in enumerate(values)]
        rows.append(sample(99, 1.0, doc_hash=name))
        paths["s", name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    acc, score = scores.differences({"pairs": [["s", "a", "b"]]}, paths)
    # Seven rows against one: 2 * (1 + 8) / 2 ** 8. The row with another document is left out.
    assert (acc["difference"], acc["n"], acc["p_mcnemar"], acc["metric"]) == (0.6, 10, 0.070312, "acc")
    assert (score["difference"], score["p_mcnemar"]) == (1.5, 0.070312)
    assert score["ci_low"] == pytest.approx(1.5 - 1.959964 * 2.5 * math.sqrt(0.4889 / 10), abs=1e-3)


def line(model, metric, value, better, **more):
    row = {"suite": "s", "model": model, "dataset": "t", "task": "", "method": "lm-eval", "metric": metric}
    row |= {"value": str(value), "n": "50", "ci_low": "", "ci_high": "", "limit": "", "stderr": "0.01", "shots": "2"}
    row |= dict.fromkeys(("paper", "paper_delta", "reproduction", "reproduction_delta"), "")
    return row | {"higher_is_better": str(better), "version": "1", "marks": ""} | more


@pytest.mark.parametrize(("p", "clear"), [("0.01", True), ("0.2", False)])
def test_the_best_of_a_line_is_marked_where_less_is_better_too(p, clear):
    rows = [line("a", "perplexity", 9.0, False), line("b", "perplexity", 7.0, False, marks="8 of 50 rows")]
    rows += [line("a", "acc", 0.9, True), line("b", "acc", 0.8, True)]
    tested = {"suite": "s", "model": "a", "against": "b", "dataset": "t", "method": "lm-eval", "n": "50"}
    tested |= {"ci_low": "0", "ci_high": "1", "p_mcnemar": p}
    told = [tested | {"metric": "perplexity", "difference": "2"}, tested | {"metric": "acc", "difference": "0.1"}]
    (suite,) = suite_tables(LM_EVAL, rows, told)
    less, more = suite["lines"]
    assert [less["cells"][name]["best"] for name in "ab"] == [False, clear]
    assert [more["cells"][name]["best"] for name in "ab"] == [clear, False]
    assert less["marks"] == ["8 of 50 rows"] and less["unit"].sign == "" and more["unit"].sign == "%"
    assert [one["trend"] for one in suite["differences"]] == (["down", "up"] if clear else ["even", "even"])


# ---------------------------------------------------------------- what takes long


@pytest.mark.soak
def test_the_command_says_the_same_with_other_seeds_shots_limit_and_batches(study, tmp_path):
    tasks = ("pico", "pico_words", "pico_sums")
    command = [str(Path(sys.executable).with_name("lm_eval")), "run", "--model", "hf", "--include_path", "tasks"]
    command += ["--model_args", "pretrained=model,dtype=float32", "--tasks", ",".join(tasks), "--device", "cpu"]
    command += ["--num_fewshot", "3", "--limit", "9", "--batch_size", "5", "--seed", "3,4,5,6", "--log_samples"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    run = subprocess.run([*command, "--output_path", str(tmp_path)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (path,) = tmp_path.rglob("results_*.json")
    seeds = {"random": 3, "numpy": 4, "torch": 5, "fewshot": 6}
    found = put(recipe(*tasks, num_fewshot=3, limit=9, seeds=seeds), str(tmp_path / "j.sqlite"))
    assert is_close(found, json.loads(path.read_text()))


KILLED = """
import os, sys
from benchmark_runs import put, recipe
from moult.inference.engines.transformers import TransformersEngine

log = os.open("computed", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def counted(whole):
    def run(self, prompts, given, *more):
        value = whole(self, prompts, given, *more)
        rows = [[hash((tuple(ids), str(one))) for one in row] for ids, row in zip(prompts, given)] if more else []
        rows = rows or [[hash((tuple(ids), request.until))] for ids, request in zip(prompts, given)]
        os.write(log, "".join(f"{one}\\n" for row in rows for one in row).encode())
        return value
    return run

TransformersEngine._score = counted(TransformersEngine._score)
TransformersEngine._complete = counted(TransformersEngine._complete)
put(recipe("pico", "pico_words", "pico_sums", bootstrap_iters=0), "killed.sqlite")
"""


@pytest.mark.soak
def test_of_a_run_that_is_killed_ten_times_no_request_is_computed_twice_beyond_a_batch(tmp_path):
    copy_reference(tmp_path)
    paths = [str(ROOT / name) for name in ("scripts", "tests")]
    lean = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    environment = os.environ | lean | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}

    def computed():
        path = tmp_path / "computed"
        return path.read_text().split() if path.exists() else []

    draw, kills = random.Random(18), 0
    for _ in range(10):
        before = len(computed())
        wanted = before + draw.randint(1, 30)
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and len(computed()) < wanted:
            time.sleep(0.001)
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills >= 5
    run = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # A batch is four documents of four choices each.
    assert len(computed()) - len(set(computed())) <= kills * 16
