"""An estimate, a build, an edit, an estimate, a build: what was predicted holds, and what was paid is told."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from openai_server import OpenAIServer
from pico_build import write_config

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "OMP_NUM_THREADS": "1"}


def config(url):
    small = {"max_tokens": 12}
    return {
        "name": "study",
        "seed": 3,
        "budget": 5,
        "datasets": [{"name": "q", "format": "stackoverflow", "files": {"train": "q.tsv"}, "dev_fraction": 0.25}],
        "endpoints": [{"name": "teacher", "url": url, "model": "big", "price": {"input": 1000, "output": 2000}}],
        "corpora": [
            {"name": "g", "kind": "guidelines", "dataset": "q", "endpoint": "teacher", "decoding": small},
            {"name": "d", "kind": "distilled", "guidelines": "g", "endpoint": "teacher", "decoding": small},
        ],
    }


def rows(first, last):
    return "".join(
        f"Question {n}, which is long?\tThe body of question {n} says a little more.\n" for n in range(first, last)
    )


@pytest.fixture
def study(tmp_path):
    """A folder with a table of questions, and a server whose answers are of many lengths."""
    (tmp_path / "q.tsv").write_text("title\tquestion_content\n" + rows(0, 8))
    with OpenAIServer(lambda body: "word " * (1 + len(str(body)) % 11)) as server:
        write_config(tmp_path / "study.yaml", config(server.url))
        yield tmp_path, server


def estimate(folder):
    command = [sys.executable, "-m", "moult.planning.estimate", "study.yaml"]
    told = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
    command.append("--json")
    found = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
    return json.loads(found)["total"], told


def build(folder, *targets):
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
    command += ["--configfile", "study.yaml", "--scheduler", "greedy", *targets]
    return warm.run(command, cwd=folder, env=ENVIRONMENT)


def test_predicted_and_paid_agree_build_by_build(study):
    folder, server = study
    paid = 0.0
    for edit in (None, lambda text: text.replace("question 3 says", "question 3 asks") + rows(8, 14), None):
        if edit:
            (folder / "q.tsv").write_text(edit((folder / "q.tsv").read_text()))
        before, _ = estimate(folder)
        assert before["spent"] == pytest.approx(paid)
        asked = len(server.paid)
        run = build(folder, "corpora")
        assert run.returncode == 0, run.stderr
        after, told = estimate(folder)
        spent = after["spent"] - paid
        if edit or not paid:
            assert before["dollars_low"] <= spent <= before["dollars_high"] and len(server.paid) > asked
            assert 0.4 * spent < before["dollars"] < 2.5 * spent
            predicted = after["predicted"]
            assert predicted["dollars_low"] == pytest.approx(before["dollars_low"])
            assert predicted["paid"] == pytest.approx(spent)
            assert f"paid since: ${spent:,.4f}, within it" in told
        else:
            assert spent == before["dollars_high"] == 0 and len(server.paid) == asked
        # Nothing is left to be paid.
        assert after["dollars_high"] == 0
        paid = after["spent"]
    usages = [json.loads(path.read_text()) for path in (folder / "results/study/corpora").glob("*.usage.json")]
    # What was paid for answers that others have superseded counts.
    assert paid > sum(usage["cost_usd"] for usage in usages)


def test_the_report_tells_what_was_paid_and_its_command_runs_as_printed(study):
    folder, server = study
    run = build(folder)
    assert run.returncode == 0, run.stderr
    (folder / "q.tsv").write_text("title\tquestion_content\n" + rows(4, 9))
    assert build(folder).returncode == 0
    page = (folder / "results/study/report/index.html").read_text()
    spent = estimate(folder)[0]["spent"]
    usages = [json.loads(path.read_text()) for path in (folder / "results/study/corpora").glob("*.usage.json")]
    assert spent > sum(usage["cost_usd"] for usage in usages)
    assert f"<dd>${spent:,.2f}" in page
    kept = folder / "results/study/config.yaml"
    assert kept.read_text() == (folder / "study.yaml").read_text()
    # In an empty folder beside the same data it makes the same.
    command = shlex.split(page.split("<pre>snakemake")[1].split("</pre>")[0])
    again, paid = folder / "again", len(server.paid)
    (again / "results/study").mkdir(parents=True)
    for source in ("q.tsv", "results/study/config.yaml", "journal"):
        copy = shutil.copytree if (folder / source).is_dir() else shutil.copy
        copy(folder / source, again / source)
    run = [sys.executable, "-m", "snakemake", *command]
    run = subprocess.run(run, cwd=again, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert len(server.paid) == paid and (again / "results/study/report/index.html").read_text() == page
    manifest = "results/study/corpora/d.manifest.json"
    assert (again / manifest).read_bytes() == (folder / manifest).read_bytes()


def test_a_corpus_whose_rows_are_all_rejected_leaves_them_and_says_what_to_do(study):
    folder, server = study
    server.reply = lambda body: ""
    run = build(folder, "results/study/corpora/g.jsonl")
    assert run.returncode == 1
    assert "every row was rejected, 8 for 'empty answer'" in run.stderr and "Raise `decoding.max_tokens`" in run.stderr
    left = folder / "results/study/corpora/all-rejected/g.jsonl"
    assert str(left.relative_to(folder)) in run.stderr and len(left.read_text().splitlines()) == 8
    assert not (folder / "results/study/corpora/g.rejects.jsonl").exists()
