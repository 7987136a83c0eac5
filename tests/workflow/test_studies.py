"""The studies are planned whole, and part by part, with no data there."""

import re
import sys

import pytest
import warm
from pico_build import ROOT

ONE_ROUND = {
    "fetch_dataset",
    "prepare_dataset",
    "check_leakage",
    "fetch_model",
    "generate_guidelines",
    "distill_answers",
}
ONE_ROUND |= {"finetune_full", "refine_answers", "finetune_lora"}
STAGE_3 = ONE_ROUND | {"fold_round", "fold_adapter", "contrast_answers", "optimise_lora"}
EVALUATION = STAGE_3 | {"answer_questions", "judge_answers", "score_judgements"}


def planned(folder, name, *targets):
    """Return what a dry run says, and how many jobs of each rule it plans."""
    # Of the checkout, which studies are planned in, some name what it ships.
    (folder / "resources").symlink_to(ROOT / "resources")
    command = [
        sys.executable,
        "-m",
        "snakemake",
        *targets,
        "--snakefile",
        ROOT / "Snakefile",
        "--directory",
        folder,
        "-n",
    ]
    command += ["--configfile", ROOT / "config" / "experiments" / f"{name}.yaml"]
    run = warm.run(command)
    told = run.stdout + run.stderr
    assert run.returncode == 0, told
    table = told[told.rindex("Job stats:") :]
    return told, {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


@pytest.mark.parametrize(
    ("name", "jobs", "fetched"),
    [
        ("mmla", 134, "THUIAR/MMLA-Datasets"),
        ("mmla-video", 78, "THUIAR/MMLA-Datasets"),
        ("meteor", 75, "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("judge", 90, "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("wrpo", 118, "RLHFlow/ArmoRM-Llama3-8B-v0.1"),
    ],
)
def test_the_study_is_planned_without_data(tmp_path, name, jobs, fetched):
    told, counts = planned(tmp_path, name)
    assert counts["total"] == jobs
    assert f"{fetched}: " in told and "will be fetched" in told and "make pin" in told


@pytest.mark.parametrize(
    ("target", "rules"),
    [
        ("adapters/Qwen2-rounds-r1", ONE_ROUND),
        ("models/Qwen2-meteor", STAGE_3),
        ("scores/Qwen2-quality/Qwen2-meteor.csv", EVALUATION),
    ],
)
def test_a_part_of_meteor_is_a_target(tmp_path, target, rules):
    _, counts = planned(tmp_path, "meteor", f"results/meteor/{target}")
    assert counts.keys() - {"total"} == rules and counts["fetch_model"] == 1


TRAINED = {"fetch_dataset", "prepare_dataset", "check_leakage", "fetch_model", "render_judgements", "finetune_lora"}
MERGED = TRAINED | {"fold_adapter", "merge_models"}


@pytest.mark.parametrize(
    ("target", "rules", "trained"),
    [
        ("corpora/pairs.jsonl", TRAINED - {"check_leakage", "finetune_lora"}, None),
        *((f"models/judge-{way}", MERGED, 2) for way in ("dare", "linear", "slerp", "ties")),
        ("scores/test/judge-both.csv", MERGED - {"merge_models"} | {"judge_items", "score_judges"}, 1),
        ("datasets/llmbar", {"fetch_dataset", "prepare_dataset"}, None),
    ],
)
def test_a_part_of_the_judge_is_a_target(tmp_path, target, rules, trained):
    told, counts = planned(tmp_path, "judge", f"results/judge/{target}")
    assert counts.keys() - {"total"} == rules and counts.get("finetune_lora") == trained
    assert "data/meld/pairwise.json is not there yet; put there" in told and "21,168,783 bytes" in told


SAMPLED = {"fetch_dataset", "prepare_dataset", "fetch_model", "sample_responses"}
SCORED = SAMPLED | {"score_responses"}
FUSED = SCORED | {"build_preferences", "check_leakage", "finetune_full", "optimise_full"}


@pytest.mark.parametrize(
    ("target", "rules", "sampled", "fetched"),
    [
        ("corpora/gemma-2-9b-samples.jsonl", SAMPLED, 1, 2),
        ("corpora/internlm-2.5-20b-scores.jsonl", SCORED, 1, 2),
        ("models/sft", FUSED - {"optimise_full"}, 10, 11),
        ("models/dpo", FUSED, 11, 11),
        ("models/wrpo", FUSED, 11, 11),
        ("scores/mt/wrpo.csv", FUSED | {"answer_turns", "judge_battles", "score_battles"}, 11, 11),
    ],
)
def test_a_part_of_the_fusion_is_a_target(tmp_path, target, rules, sampled, fetched):
    _, counts = planned(tmp_path, "wrpo", f"results/wrpo/{target}")
    assert counts.keys() - {"total"} == rules
    assert (counts["sample_responses"], counts["fetch_model"]) == (sampled, fetched)


def test_the_judge_merges_as_mergekit_takes_it():
    from mergekit.config import MergeConfiguration
    from moult.config.load import load_file
    from moult.stages.models import merge
    from moult.weights.merging import mergekit_config

    cfg = load_file(ROOT / "config" / "experiments" / "judge.yaml")
    found = {name: merge(cfg, name) for name in cfg.names("models", "merge")}
    assert {recipe["method"] for recipe in found.values()} == {"dare_ties", "linear", "slerp", "ties"}
    assert {recipe["dtype"] for recipe in found.values()} == {"bfloat16"}
    assert len({recipe["seed"] for recipe in found.values()}) == 4
    for recipe in found.values():
        MergeConfiguration.model_validate(mergekit_config(recipe, lambda name: f"models/{name}"))
