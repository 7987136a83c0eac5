"""The tutorial, followed by its own words in a folder outside the checkout, with a pico model for SmolLM2."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from moult.base.errors import UserError
from moult.data.prompts import answered_example, label_messages
from moult.inference.requests import corpus_requests
from pico_build import ROOT

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
# To get Moult, which is there.
INSTALLING, *FOLLOWED = BLOCKS
# SmolLM2 comes from a package index; the pico model is a folder.
FETCHED = re.compile(r"    fetch:\n(?:      .*\n)+    parameters: 0.135\n")


MARK = "--- next block ---"


def follow(home, inputs, dry=False):
    """Run the blocks of the tutorial in a folder; what they said is in the file `said`. dry: nothing is built."""
    (home / "moult").symlink_to(ROOT)
    shutil.copytree(inputs / "models" / "base", home / "pico")
    script = f"\necho '{MARK}'\n".join(FOLLOWED)
    if dry:
        script = re.sub(r"^moult(?= datasets$|$)", "moult -n", script, flags=re.MULTILINE)
        script = re.sub(r"^grep .*\n", "", script, flags=re.MULTILINE)
    script, changed = FETCHED.subn("    fetch: {path: ../pico}\n    parameters: 0.001\n", script)
    assert changed == 1
    # What the pico model says is noise: shorter is as good.
    script = re.sub(r"max_steps: \d+", "max_steps: 4", script).replace("max_tokens: 96", "max_tokens: 8")
    script = re.sub(r"evaluate_every: \d+", "evaluate_every: 2", script)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=home,
        env=environment | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    (home / "said").write_text(run.stdout)


@pytest.fixture(scope="module")
def followed(once, inputs):
    """The folder of the tutorial after its last command, and what the commands said, block by block."""
    home = once("tutorial", lambda home: follow(home, inputs))
    return home / "mailbox", (home / "said").read_text().split(MARK)


def test_its_commands_plan_what_the_page_builds(tmp_path, inputs):
    follow(tmp_path, inputs, dry=True)
    first, *_, whole, _, _ = (tmp_path / "said").read_text().split(MARK)[1:]
    assert re.search(r"^prepare_dataset +2$", first, re.MULTILINE) and "finetune_lora" not in first
    for rule, jobs in {"finetune_lora": 3, "merge_models": 1, "predict_labels": 4, "write_report": 1}.items():
        assert re.search(rf"^{rule} +{jobs}$", whole, re.MULTILINE), rule


def test_getting_moult_is_what_the_makefile_does():
    commands = [line.split("#")[0].split() for line in INSTALLING.splitlines()]
    assert [words[:2] for words in commands] == [
        ["git", "clone"],
        ["make", "-C"],
        ["source", "moult/.venv/bin/activate"],
    ]
    assert re.search(rf"^{re.escape(commands[1][-1])}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.soak
def test_it_ends_in_its_table(followed):
    folder, _ = followed
    with open(folder / "results/mailbox/scores/summary.csv") as handle:
        rows = [row for row in csv.DictReader(handle) if row["metric"] == "accuracy" and row["dataset"] == "messages"]
    assert {(row["model"], row["method"]) for row in rows} == {
        (model, method)
        for model in ("smollm2", "sorter-r4", "sorter-r16", "merged")
        for method in ("generate", "likelihood")
    }
    assert {row["task"] for row in rows} == {"message_topic"}
    assert {int(row["n"]) for row in rows} == {round(0.3 * 42)}


@pytest.mark.soak
def test_the_table_is_shown_as_the_page_says(followed):
    header, *lines = followed[1][-2].strip().splitlines()
    assert header == "model,method,value,n,ci_low,ci_high"
    assert [line.split(",")[:2] for line in lines] == [
        [model, method]
        for model in ("smollm2", "sorter-r4", "sorter-r16", "merged")
        for method in ("generate", "likelihood")
    ]


@pytest.mark.soak
def test_another_rank_plans_one_more_adapter_and_nothing_else_is_trained(followed):
    plan = followed[1][-1]
    assert re.search(r"^finetune_lora +1$", plan, re.MULTILINE)
    assert not re.search(r"^(distill_answers|predict_labels|fold_adapter|merge_models) +[2-9]", plan, re.MULTILINE)


# Who fills a template, by the first column of the page's table.
FILLED = {
    "of labelled rows": lambda template: label_messages(
        template, {"text": "a"}, {"task": "a_b", "task_words": "a b", "labels": ["x"]}
    ),
    "of questions": lambda template: answered_example({"uid": "u", "title": "t", "question": "q"}, template, "yes"),
    "the teacher's": lambda template: corpus_requests(
        {"prompt": template, "decoding": {}, "seed": 0},
        [{"uid": "u", "dataset": "d", "split": "train", "field": "f", "title": "t", "question": "q"}],
    ),
}


@pytest.mark.parametrize("prompt", FILLED)
def test_a_template_may_name_the_variables_that_the_page_lists(prompt):
    (row,) = re.findall(rf"^\| {prompt} \|.*\| (.*) \|$", TUTORIAL, re.MULTILINE)
    asked, _, learnt = row.partition("; in `answer` also ")
    asked, learnt = (re.findall(r"`(\w+)`", text) for text in (asked, learnt))
    template = {"user": " ".join(f"{{{{ {name} }}}}" for name in asked)}
    FILLED[prompt](template | {"answer": " ".join(f"{{{{ {name} }}}}" for name in (*asked, *learnt))})
    for wrong in (*learnt, "nothing"):
        with pytest.raises(UserError, match=wrong):
            FILLED[prompt]({"user": f"{{{{ {wrong} }}}}", "answer": ""})


def test_the_page_of_defaults_is_that_of_the_types():
    command = [sys.executable, "-m", "moult.config.defaults"]
    made = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")}, capture_output=True, text=True, check=True
    )
    assert made.stdout == (ROOT / "docs" / "defaults.md").read_text(encoding="utf-8"), "run `make schema`"
