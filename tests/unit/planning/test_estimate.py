"""The estimate counts what a build would ask, by the build's own keys, and touches nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from moult.base.files import write_json, write_jsonl
from moult.config.load import load
from moult.corpora.generated import generate_corpus
from moult.data import prepare as preparing
from moult.data.fetch import fetch_dataset
from moult.data.questions import question_rows
from moult.inference.asking import Asker
from moult.inference.journal import Journal
from moult.inference.recipes import client_of
from moult.jobs.manifest import write_manifest
from moult.planning import estimate
from moult.stages import BY_RULE
from moult.stages.datasets import fetch_dataset as fetch_recipe
from moult.stages.datasets import prepare_dataset
from openai_server import OpenAIServer

ROOT = Path(__file__).parents[3]
ROWS = 12


def config(url="http://127.0.0.1:9/v1", **more):
    return {
        "name": "x",
        "datasets": [{"name": "q", "format": "stackoverflow", "files": {"train": "q.tsv"}, "dev_fraction": 0.25}],
        "endpoints": [
            {"name": "student", "serve": "base"},
            {"name": "teacher", "url": url, "model": "big", "price": {"input": 1, "output": 2}},
        ],
        "models": [{"name": "base", "fetch": {"path": "weights"}, "parameters": 0.1}],
        "corpora": [
            {"name": "g", "kind": "guidelines", "dataset": "q", "endpoint": "student", "decoding": {"max_tokens": 10}},
            {
                "name": "d",
                "kind": "distilled",
                "guidelines": "g",
                "endpoint": "teacher",
                "decoding": {"max_tokens": 20},
            },
            {"name": "e", "kind": "distilled", "dataset": "q", "endpoint": "teacher", "decoding": {"max_tokens": 30}},
        ],
    } | more


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"Question {number}?\tBody of question number {number}." for number in range(ROWS)]
    Path("q.tsv").write_text("\n".join(["title\tquestion_content", *rows]) + "\n")
    return tmp_path


def files():
    """All files but what estimates keep for themselves."""
    found = [
        path for path in Path().rglob("*") if path.parts[:2] != ("journal", "estimates") and path != Path("journal")
    ]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


def estimated(capsys, raw):
    Path("x.yaml").write_text(yaml.safe_dump(raw))
    before = files()
    estimate.main(["x.yaml", "--json"])
    found = json.loads(capsys.readouterr().out)
    estimate.main(["x.yaml"])
    assert files() == before
    lines = capsys.readouterr().out.splitlines()
    return {entry["corpus"]: entry for entry in found["corpora"]}, found["total"], lines


def prepared(cfg):
    """Prepare the dataset where a build would; return its rows."""
    source = {"kind": "path", "split": "train", "index": 0, "basename": "q.tsv", "sha256": None}
    fetch_dataset([source], ["q.tsv"], "results/x/raw/q")
    preparing.prepare_dataset(prepare_dataset(cfg, "q"), "results/x/raw/q", "results/x/datasets/q")
    write_json("results/x/raw/q.manifest.json", {"recipe": fetch_recipe(cfg, "q")})
    write_json("results/x/datasets/q.manifest.json", {"recipe": prepare_dataset(cfg, "q")})
    return question_rows("results/x/datasets/q", ["train", "dev"])


def test_from_raw_files_before_anything_is_built(place, capsys):
    found, total, lines = estimated(capsys, config(budget=0.0005))
    assert [found[name]["rows"] for name in "gde"] == [ROWS] * 3
    assert [found[name]["answered"] for name in "gde"] == [None, None, 0]
    assert found["g"]["dollars_high"] == 0 and found["e"]["answer_tokens_high"] == ROWS * 30
    # d: its guidelines are unknown; e: known to the token but for the tokenizer.
    e, d = found["e"], found["d"]
    for one, longest in ((e, 30), (d, 20)):
        assert one["dollars_low"] == pytest.approx(one["prompt_tokens_low"] / 1e6, rel=0.01)
        assert one["dollars"] == pytest.approx((one["prompt_tokens"] + ROWS * longest / 2 * 2) / 1e6, rel=0.01)
        assert one["dollars_high"] == pytest.approx((one["prompt_tokens_high"] + ROWS * longest * 2) / 1e6, rel=0.01)
        assert one["prompt_tokens_low"] < one["prompt_tokens"] < one["prompt_tokens_high"]
    assert total["dollars_high"] == pytest.approx(d["dollars_high"] + e["dollars_high"])
    assert total["dollars_low"] > 0.0005 and lines[-1].endswith("which does not suffice.")
    assert any(f"{ROWS} guidelines of g are not written yet: counted with 0 to 10 tokens" in line for line in lines)
    assert any("one per 2 to 8 characters, 4 as usual" in line for line in lines)
    assert len({len(line) for line in lines[:4]}) == 1


def test_a_budget_suffices_from_the_highest_cost_on_and_does_not_below_the_lowest(place, capsys):
    _, total, _ = estimated(capsys, config())
    low, high = total["dollars_low"], total["dollars_high"]
    for budget, words in {
        low / 2: "which does not suffice.",
        low: "which may not suffice.",
        (low + high) / 2: "which may not suffice.",
        high: "which suffices.",
    }.items():
        _, _, lines = estimated(capsys, config(budget=budget))
        assert lines[-1].endswith(words), (budget, low, high)


def test_a_built_model_counts_its_own_tokens(place, capsys, pico_model):
    shutil.copytree(pico_model, "results/x/models/base")
    write_manifest(
        "results/x/models/base.manifest.json",
        rule="fetch_model",
        outputs=["results/x/models/base"],
        parents=[],
        recipe={},
        facts={},
    )
    found, _, _ = estimated(capsys, config())
    assert found["g"]["answered"] == 0 and not any("characters" in note for note in found["g"]["notes"])
    # A byte-level tokenizer of 512 tokens makes more than one of each four characters.
    assert found["g"]["prompt_tokens"] > 2 * found["e"]["prompt_tokens"] / 3
    assert found["g"]["prompt_tokens_low"] == found["g"]["prompt_tokens_high"]


def test_what_the_journal_holds_is_not_counted_again(place, capsys):
    with OpenAIServer(lambda body: "four words of answer") as server:
        cfg = load(config(server.url))
        rows = prepared(cfg)
        recipe = BY_RULE["distill_answers"].recipe(cfg, "e")
        with Asker(recipe["endpoint"], Path("journal/distill_answers/e.sqlite"), client_of(cfg, "teacher")) as asker:
            generate_corpus(recipe, rows[:5], "answer", asker)
    found, total, lines = estimated(capsys, config(server.url, budget=1))
    e = found["e"]
    assert (e["rows"], e["answered"], e["ask"]) == (ROWS, 5, ROWS - 5)
    # Four words are four tokens to this server; what the next answers have nobody knows.
    answers = [e[name] for name in ("answer_tokens_low", "answer_tokens", "answer_tokens_high")]
    assert answers == [0, 4 * (ROWS - 5), 30 * (ROWS - 5)]
    assert e["paid"] > 0 and total["spent"] == pytest.approx(e["paid"])
    assert "budget: $1.0000, which suffices" in lines[-1]
    # Under another seed or another name the same is asked; another experiment has paid nothing.
    for change in ({"seed": 5}, {"corpora": [config()["corpora"][2] | {"name": "f"}]}):
        raw = config(server.url, **change)
        for corpus in raw["corpora"]:
            corpus["decoding"] = corpus["decoding"] | {"temperature": 0.7}
        assert [one["answered"] for name, one in estimated(capsys, raw)[0].items() if name in "ef"] == [0]


def test_what_is_so_far_is_of_this_experiment_and_this_model(place, capsys):
    """The journal's folder has neither in its path."""
    with OpenAIServer(lambda body: "many words " * 8) as server:
        for name, model, count in (("y", "big", 5), ("x", "other", 4)):
            cfg = load(config(server.url) | {"name": name})
            rows = prepared(load(config()))
            recipe = BY_RULE["distill_answers"].recipe(cfg, "e") | {"seed": 5}
            recipe["endpoint"] = recipe["endpoint"] | {"model": model}
            recipe["decoding"] = recipe["decoding"] | {"temperature": 0.5}
            with Asker(
                recipe["endpoint"], Path("journal/distill_answers/e.sqlite"), client_of(cfg, "teacher")
            ) as asker:
                generate_corpus(recipe, rows[:count], "answer", asker)
        found, total, _ = estimated(capsys, config(server.url))
        assert found["e"]["answer_tokens"] == ROWS * 15 and not any("so far" in note for note in found["e"]["notes"])
        # What another model has answered was paid for by this experiment, nevertheless.
        assert 0 < total["spent"] == pytest.approx(found["e"]["paid"])
        cfg = load(config(server.url))
        recipe = BY_RULE["distill_answers"].recipe(cfg, "e") | {"seed": 6}
        with Asker(recipe["endpoint"], Path("journal/distill_answers/e.sqlite"), client_of(cfg, "teacher")) as asker:
            generate_corpus(recipe | {"decoding": recipe["decoding"] | {"temperature": 0.5}}, rows[:2], "answer", asker)
        found, _, _ = estimated(capsys, config(server.url))
        assert found["e"]["answer_tokens"] == ROWS * 16


def test_a_dataset_that_is_not_at_hand_has_the_rows_that_the_config_says(place, capsys):
    raw = config(limit=None)
    raw["datasets"][0] |= {"files": {"train": {"url": "http://127.0.0.1:9/q.tsv", "sha256": "0" * 64}}}
    raw["datasets"][0]["rows"] = {"train": 1000}
    raw["corpora"][2]["splits"] = ["dev"]
    found, total, lines = estimated(capsys, raw)
    assert (found["d"]["rows"], found["e"]["rows"]) == (1000, 250)
    assert 0 < total["dollars_low"] < total["dollars"] < total["dollars_high"]
    told = "dataset q is not fetched: 1,000 rows as the config says, 20 to 1,500 tokens assumed for each"
    assert any(told in line for line in lines)
    # Rows of 20 and of 1,500 tokens are in the range.
    prompts = found["e"]["prompt_tokens_low"], found["e"]["prompt_tokens_high"]
    assert prompts[0] > 250 * 20 and prompts[1] > 250 * 1500
    assert estimated(capsys, raw | {"limit": 7})[0]["d"]["rows"] == 14
    del raw["datasets"][0]["rows"]
    assert estimated(capsys, raw | {"limit": 7})[0]["d"]["rows"] == 14


def test_guidelines_that_are_written_are_read(place, capsys):
    rows = prepared(load(config()))
    write_jsonl("results/x/corpora/g.jsonl", [row | {"guideline": "Look twice."} for row in rows[:3]])
    write_jsonl("results/x/corpora/g.rejects.jsonl", [{"uid": row["uid"]} for row in rows[3:5]])
    found, _, lines = estimated(capsys, config())
    # Three have one, two never will, seven are to be written.
    assert (found["d"]["rows"], found["d"]["answered"]) == (ROWS - 2, 0)
    assert any("7 guidelines of g are not written yet" in line for line in lines)


def test_raw_rows_that_changed_are_seen(place, capsys):
    with OpenAIServer(lambda body: "four words of answer") as server:
        cfg = load(config(server.url))
        rows = prepared(cfg)
        recipe = BY_RULE["distill_answers"].recipe(cfg, "e")
        with Asker(recipe["endpoint"], Path("journal/distill_answers/e.sqlite"), client_of(cfg, "teacher")) as asker:
            generate_corpus(recipe, rows, "answer", asker)
    write_jsonl("results/x/corpora/g.jsonl", [row | {"guideline": "Look twice."} for row in rows])
    assert estimated(capsys, config(server.url))[0]["e"]["ask"] == 0
    text = Path("q.tsv").read_text().replace("Body of question number 3.", "Another body.")
    Path("q.tsv").write_text(text + "".join(f"New {number}?\tNew.\n" for number in range(6)))
    found, _, lines = estimated(capsys, config(server.url))
    assert (found["e"]["rows"], found["e"]["ask"]) == (ROWS + 6, 7) and found["e"]["dollars_low"] > 0
    assert any("dataset q has changed since it was prepared" in line for line in lines)
    assert any("7 guidelines of g are not written yet" in line for line in lines)


def test_what_is_unknown_says_so(place, capsys):
    raw = config()
    del raw["endpoints"][1]["price"]
    raw["datasets"][0]["files"] = {"train": {"url": "http://127.0.0.1:9/q.tsv", "sha256": "0" * 64}}
    found, total, lines = estimated(capsys, raw)
    assert found["e"]["rows"] is None and total["dollars_low"] is None
    assert any("rows unknown: dataset q is not fetched; fetch it" in line for line in lines)
    assert any("price unknown: set `price` of the endpoint teacher" in line for line in lines)
    assert lines[-1].startswith("To pay: unknown")


def test_a_journal_in_use_is_not_waited_for_and_one_of_a_killed_build_is_read(place, capsys):
    cfg = load(config())
    prepared(cfg)
    program = "import sys, time; from moult.inference.journal import Journal; j = Journal(sys.argv[1]); "
    program += "j.keep([('k', {}, {'completion_tokens': 7})]); print('held', flush=True); time.sleep(600)"
    arguments = [sys.executable, "-c", program, "journal/distill_answers/e.sqlite"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as build:
        assert build.stdout.readline() == "held\n"
        found, _, lines = estimated(capsys, config())
        assert any("e.sqlite is in use by a running build, not counted" in line for line in lines)
        assert found["e"]["ask"] == ROWS
        build.kill()
    assert Path("journal/distill_answers/e.sqlite-wal").exists()
    # The answer is nobody's of this experiment.
    assert estimated(capsys, config())[0]["e"]["answer_tokens"] == 15 * ROWS
    with Journal("journal/distill_answers/e.sqlite") as journal:
        assert len(journal.known(["k"])) == 1


def test_a_wrong_config_is_a_sentence(place):
    Path("x.yaml").write_text("name: x\nbudgett: 3\n")
    with pytest.raises(SystemExit, match="did you mean 'budget'"):
        estimate.main(["x.yaml"])


def refined(**more):
    return {
        "name": "r",
        "kind": "refined",
        "dataset": "q",
        "splits": ["train"],
        "slice": [4, None],
        "endpoint": "student",
        "judge": "teacher",
        "decoding": {"max_tokens": 10},
        "judge_decoding": {"max_tokens": 20},
    } | more


def test_refining_is_counted_from_one_verdict_a_row_to_as_many_as_it_may_have(place, capsys):
    raw = config()
    raw["corpora"] = [refined(), refined(name="own", judge="student"), refined(name="once", max_iterations=1)]
    found, total, lines = estimated(capsys, raw)
    rows, r, once = ROWS - 3 - 4, found["r"], found["once"]
    assert r["rows"] == rows and r["ask"] == 6 * rows and r["answer_tokens_high"] == 3 * rows * 30
    assert once["ask"] == 2 * rows
    # The judge alone is paid: for a row once its question, and three times the answer to it, too.
    assert 0 < once["dollars_low"] < once["dollars"] < once["dollars_high"]
    assert r["dollars_high"] == pytest.approx(3 * once["dollars_high"]) and r["dollars_low"] == once["dollars_low"] > 0
    assert found["own"]["dollars_high"] == 0 and total["dollars_high"] == r["dollars_high"] + once["dollars_high"]
    assert any("the most that is asked" in line for line in lines)
    del raw["endpoints"][1]["price"]
    assert estimated(capsys, raw)[0]["r"]["dollars_high"] is None


def test_rounds_are_counted_each(place, capsys):
    entry = {"name": "m", "base": "base", "dataset": "q", "rows": 9, "interval": 4, "judge": "teacher"}
    found, _, _ = estimated(capsys, config(corpora=[], rounds=[entry]))
    assert [found[f"m-r{number}"]["rows"] for number in (1, 2, 3)] == [4, 4, 1]


def test_a_judge_is_counted_before_and_after_its_answers_are_there(place, capsys):
    suite = {"name": "s", "judge": {"datasets": ["q"], "split": "train", "endpoint": "teacher"}}
    suite["judge"] |= {"sample": 5, "repeats": {"questions": 2, "times": 2}, "decoding": {"max_tokens": 40}}
    raw = config(suites=[suite], evaluations=[{"suite": "s", "corpora": ["d", "e"], "against": "e"}])
    found, total, lines = estimated(capsys, raw)
    one = found["s/d"]
    # Both orders of each pair, and two of them twice more; the answers may be as long as they may.
    assert (one["rows"], one["ask"], one["answered"]) == (14, 14, None)
    assert one["answer_tokens_high"] == 14 * 40
    assert one["dollars_high"] == pytest.approx((one["prompt_tokens_high"] + 14 * 40 * 2) / 1e6, rel=0.01)
    unwritten = one["prompt_tokens_high"]
    assert total["dollars_high"] == pytest.approx(sum(found[name]["dollars_high"] for name in ("g", "d", "e", "s/d")))
    assert any("5 answers of d are not written yet" in line for line in lines)
    rows = prepared(load(raw))
    for name in "de":
        write_jsonl(f"results/x/corpora/{name}.jsonl", [row | {"answer": name} for row in rows])
    one = estimated(capsys, raw)[0]["s/d"]
    assert (one["ask"], one["answered"]) == (14, 0)
    assert one["prompt_tokens_high"] < unwritten
