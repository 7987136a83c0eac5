"""The whole way from raw tables to the report, by the real Snakefile."""

import csv
import json
import re

import pytest
from benchmark_runs import benchmark_config
from fusing import asking_config
from judges import EXPLAINED, judged_config, jury_config
from moult.config.load import load
from moult.stages import STAGES
from pico_build import pico_config
from pico_variants import (
    VIDEO_HUB,
    contest_config,
    passing_config,
    preference_config,
    rounds_config,
    sweep_config,
    video_config,
)
from probes import probing_config


def rules_of(config):
    """Return the rules that have a job in a build of a config, exports aside."""
    cfg = load(config)
    return {stage.rule for stage in STAGES if stage.makes != "exports" and stage.planned(cfg)}


def test_the_pico_build_passes_through_every_rule_that_its_config_has_work_for(unbuilt):
    assert unbuilt.planned_rules() == rules_of(unbuilt.config) | {"all"}


def test_the_builds_of_these_tests_pass_through_every_rule(tmp_path, monkeypatch):
    # Of tasks of the user's own: a folder beside the config.
    (tmp_path / "tasks").mkdir()
    monkeypatch.chdir(tmp_path)
    variants = [preference_config(), rounds_config(7, 3), video_config(), video_config(VIDEO_HUB)]
    variants += [judged_config(), jury_config("math"), EXPLAINED, passing_config(), asking_config(("one",))]
    variants += [benchmark_config(), probing_config(), sweep_config(), contest_config()]
    built = set().union(*map(rules_of, [pico_config(), *variants]))
    assert built == {stage.rule for stage in STAGES if stage.makes not in ("exports", "published")}


def test_everything_is_there(built):
    results = built.path / "results" / "pico"
    for name in ("base", "advisor", "moods_sft", "merged", "moods_full"):
        assert (results / "models" / name / "model.safetensors").stat().st_size > 0
        assert (results / "models" / name / "README.md").read_text().startswith("---")
    for name in ("guidelines", "distilled", "plain", "own_words"):
        assert (results / "corpora" / f"{name}.jsonl").stat().st_size > 0
    with open(results / "scores" / "summary.csv") as handle:
        rows = [row for row in csv.DictReader(handle) if row["suite"] == "labels"]
    assert {"model", "suite", "dataset", "metric", "value", "n", "ci_low", "ci_high"} <= set(rows[0])
    assert {(row["model"], row["method"]) for row in rows} == {
        (model, method) for model in ("base", "merged") for method in ("generate", "likelihood")
    }
    assert all(0 <= float(row["ci_low"]) <= float(row["value"]) <= float(row["ci_high"]) <= 1 for row in rows)


def test_the_report_stands_alone(built, tmp_path_factory):
    page = (built.path / "results" / "pico" / "report" / "index.html").read_text()
    assert not re.findall(r"""(?:src|href)=["']https?://""", page)
    for name in ("merged", "moods_sft", "distilled", "questions"):
        assert name in page
    # No path of this machine: it was built somewhere below this folder.
    assert str(tmp_path_factory.getbasetemp().parent) not in page


def test_rows_in_are_rows_out_and_rejects(built):
    results = built.path / "results" / "pico"
    for name in ("guidelines", "distilled", "own_words"):
        facts = json.loads((results / "corpora" / f"{name}.manifest.json").read_text())["facts"]
        usage = json.loads((results / "corpora" / f"{name}.usage.json").read_text())
        assert facts["rows"] + facts["rejects"] == usage["calls"] == 4
    teacher = json.loads((results / "corpora" / "distilled.usage.json").read_text())
    assert teacher["cost_usd"] == pytest.approx(
        (teacher["prompt_tokens"] + 2 * teacher["completion_tokens"]) / 1e6, abs=1e-9
    )


def test_a_number_can_be_traced_to_its_data(built):
    """score → predictions → model → parents → adapter → corpus → dataset → raw file, by content hash."""
    results = built.path / "results" / "pico"
    path = ["scores/labels/merged", "predictions/labels/merged", "models/merged", "models/advisor", "adapters/advisor"]
    path += ["corpora/distilled", "corpora/guidelines", "datasets/questions", "raw/questions"]
    for child, parent in zip(path, path[1:], strict=False):
        parents = json.loads((results / f"{child}.manifest.json").read_text())["parents"]
        content = json.loads((results / f"{parent}.manifest.json").read_text())["content"]
        assert parents[f"results/pico/{parent}"] == content


def test_nothing_is_left_to_do(built):
    assert "Nothing to be done" in built.snakemake("--dry-run").stdout


@pytest.mark.soak
def test_a_part_built_in_another_folder_has_the_same_manifests(built, unbuilt):
    """Rows, answers of an endpoint, an adapter, folded weights and predictions; `make test-soak` builds all twice."""
    parts = ("models/advisor", "predictions/labels/base.jsonl")
    run = unbuilt.snakemake(*(f"results/pico/{part}" for part in parts))
    assert run.returncode == 0, run.stdout + run.stderr
    made, before = unbuilt.manifests(), built.manifests()
    assert len(made) > 8 and made == {path: before[path] for path in made}


@pytest.mark.soak
def test_two_builds_in_different_folders_give_the_same_manifests(built, unbuilt):
    run = unbuilt.snakemake()
    assert run.returncode == 0, run.stdout + run.stderr
    assert unbuilt.manifests() == built.manifests()
    reports = [folder.path / "results" / "pico" / "report" / "index.html" for folder in (built, unbuilt)]
    assert reports[0].read_bytes() == reports[1].read_bytes()


def test_single_targets_plan_what_they_need_and_no_more(unbuilt):
    assert unbuilt.planned("results/pico/models/moods_sft") == {
        "raw/moods",
        "datasets/moods",
        "leakage/moods.csv",
        "models/base",
        "adapters/moods_sft",
        "models/moods_sft",
    }
    assert unbuilt.planned("results/pico/models/moods_full") == {
        "raw/moods",
        "datasets/moods",
        "leakage/moods.csv",
        "models/base",
        "models/moods_full",
    }
    assert unbuilt.planned("results/pico/scores/labels/base.csv") == {
        "raw/moods",
        "datasets/moods",
        "models/base",
        "predictions/labels/base.jsonl",
        "scores/labels/base.csv",
    }
    assert unbuilt.planned("results/pico/corpora/distilled.jsonl") == {
        "raw/questions",
        "datasets/questions",
        "corpora/guidelines.jsonl",
        "corpora/distilled.jsonl",
    }


def test_a_config_inherits_nothing_from_the_demo(unbuilt):
    config = unbuilt.config
    unbuilt.config = {key: config[key] for key in ("name", "datasets")}
    assert unbuilt.planned_rules("datasets") == {"fetch_dataset", "prepare_dataset", "check_leakage", "datasets"}


def test_a_wrong_config_is_one_sentence(unbuilt):
    unbuilt.config = unbuilt.config | {"sead": 1}
    run = unbuilt.snakemake("--dry-run")
    assert run.returncode != 0
    assert "pico.yaml: sead: unknown key; did you mean 'seed'?" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_an_absent_file_is_named_before_anything_runs(unbuilt):
    (unbuilt.path / "data" / "cv.tsv").unlink()
    run = unbuilt.snakemake("--dry-run")
    assert run.returncode != 0
    assert "dataset questions: data/cv.tsv does not exist (looked in " in run.stdout + run.stderr


def test_a_bad_row_is_told_by_the_rule_that_reads_it(unbuilt):
    (unbuilt.path / "data" / "moods" / "dev.tsv").write_text("id\ttext\tmood\n1\thi\tgood\n")
    run = unbuilt.snakemake("results/pico/datasets/moods")
    assert run.returncode != 0
    assert "no column 'label' (there is id, text, mood)" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert not (unbuilt.path / "results" / "pico" / "datasets" / "moods").exists()


def test_limit_caps_rows_and_every_table_says_so(unbuilt):
    unbuilt.config = unbuilt.config | {"limit": 3}
    run = unbuilt.snakemake("results/pico/scores/labels/base.csv")
    assert run.returncode == 0, run.stdout + run.stderr
    with open(unbuilt.path / "results" / "pico" / "scores" / "labels" / "base.csv") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["limit"] for row in rows} == {"3"} and {row["n"] for row in rows} == {"3"}
