"""Self-training through the real Snakefile: questions → pairs → an optimised adapter → full weights → on from there."""

import json
import shutil

import pytest
import yaml
from pico_build import Folder
from pico_variants import write_preferences
from processes import kill_group, wait_for


@pytest.fixture(scope="module")
def optimised(build_once):
    """The build, made once."""
    return build_once("optimised", write_preferences, None)


@pytest.fixture
def edited(optimised, tmp_path):
    """A copy of the build, to be edited."""
    return Folder(shutil.copytree(optimised.path, tmp_path / "copy", symlinks=True), None)


def facts(folder, key):
    return json.loads((folder.path / "results" / "own" / f"{key}.manifest.json").read_text())["facts"]


def test_a_model_is_optimised_on_its_own_pairs_and_nothing_is_left_to_do(optimised):
    results = optimised.path / "results" / "own"
    made = facts(optimised, "corpora/pairs")
    assert made["rows"] + made["rejects"] == made["rows_in"] == 16 and made["rows"] > 4
    for key in ("adapters/preferring", "models/further"):
        told = facts(optimised, key)
        assert told["n_train"] + told["n_dev"] == made["rows"] and told["steps"] == 6
        assert told["dev"].keys() == told["dev_before"].keys() == {"loss", "nll", "accuracy"}
    card = (results / "models" / "preferring" / "README.md").read_text()
    assert "base, preference-optimised (dpo loss) by LoRA on pairs; the adapter is folded in." in card
    weights = [
        (results / "models" / name / "model.safetensors").read_bytes() for name in ("base", "preferring", "further")
    ]
    assert len(set(weights)) == 3
    page = (results / "report" / "index.html").read_text()
    assert "DPO beta 0.1, LoRA rank 2, 6 steps" in page and "of pairs in order" in page and "unexplained" not in page
    assert "Nothing to be done" in optimised.snakemake("--dry-run").stdout


def test_another_loss_makes_no_pair_again_and_another_gate_asks_for_no_answer(edited):
    config = edited.config
    config["models"][1]["optimise"]["loss"] = {"kind": "contrastive", "margin": 1.0}
    edited.config = config
    assert edited.planned("models") == {"adapters/preferring", "models/preferring", "models/further"}
    config["corpora"][0]["gate"]["min_characters"] = 4
    edited.config = config
    run = edited.snakemake("results/own/corpora/pairs.jsonl")
    assert run.returncode == 0, run.stdout + run.stderr
    log = (edited.path / "logs/own/contrast_answers/pairs.log").read_text()
    assert "32 requests, 32 of them answered before, 0 to ask" in log


@pytest.mark.soak
@pytest.mark.parametrize("target", ["adapters/preferring", "models/further"])
def test_a_killed_run_on_pairs_ends_in_the_same_bytes(edited, tmp_path, target):
    config = edited.config
    for model in config["models"][1:]:
        model["optimise"] |= {"max_steps": 120, "evaluate_every": 20, "learning_rate": 1e-5}
    edited.config = config
    if target == "models/further":
        run = edited.snakemake("results/own/models/preferring")
        assert run.returncode == 0, run.stdout + run.stderr
    undisturbed = Folder(shutil.copytree(edited.path, tmp_path / "undisturbed", symlinks=True), None)
    process = edited.start(f"results/own/{target}")
    wait_for(lambda: any((edited.path / "scratch").rglob("whole.json")))
    assert process.poll() is None, "it ended before it could be killed"
    kill_group(process)
    for folder in (edited, undisturbed):
        run = folder.snakemake(f"results/own/{target}")
        assert run.returncode == 0, run.stdout + run.stderr
    manifests = [folder.path / f"results/own/{target}.manifest.json" for folder in (edited, undisturbed)]
    assert manifests[0].read_bytes() == manifests[1].read_bytes()
    rule = {"adapters/preferring": "optimise_lora/preferring", "models/further": "optimise_full/further"}[target]
    assert "resuming after checkpoint-" in (edited.path / f"logs/own/{rule}.log").read_text()


def test_a_collapsing_run_is_one_sentence_and_no_artefact(edited):
    config = edited.config
    config["models"][1]["optimise"]["learning_rate"] = 1.0
    edited.config = config
    run = edited.snakemake("results/own/models/preferring")
    assert run.returncode != 0
    said = run.stdout + run.stderr
    assert "optimise_lora preferring: collapsed at step" in said and "lower learning_rate (now 1)" in said
    assert "Traceback" not in said
    assert not (edited.path / "results/own/adapters/preferring").exists()
    assert not (edited.path / "results/own/adapters/preferring.manifest.json").exists()


def test_beams_need_a_model_of_this_build(edited):
    config = edited.config
    config["endpoints"][0] = {"name": "student", "url": "http://127.0.0.1:9/v1", "model": "big"}
    (edited.path / "pico.yaml").write_text(yaml.safe_dump(config))
    run = edited.snakemake("--dry-run")
    assert run.returncode != 0
    assert "corpora 'pairs', chosen: beam search needs an endpoint that serves a model" in run.stdout + run.stderr
