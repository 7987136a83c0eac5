"""What has changed since a build is seen by the next one, and by a dry run: results, recipes, the user's files."""

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
from moult.planning.standing import Standing
from moult.planning.start import checked_config
from moult.stages import STAGES
from pico_build import ROOT, Folder


def says(folder, params=True):
    """Return what is said of the artefacts of a folder, as planning looks at them."""
    said = []
    with chdir(folder.path):
        cfg = checked_config(folder.config, "pico.yaml", said.append, speaks=False)
        standing = Standing(cfg, Path("results", cfg.name), said.append, lambda: params)
        for stage in STAGES:
            for names in stage.names(cfg):
                standing.look(stage, names, stage.inputs(cfg, *names))
    return said


def rules_of(run):
    """Return the rules in the table of jobs of a dry run."""
    table = run.stdout.split("Job stats:")[1].split("\ntotal")[0]
    return {line.split()[0] for line in table.splitlines()[3:] if line.strip()}


def put(path, data, stat):
    """Write a file as it was, with its times."""
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def damages(path, chance):
    """Yield (how, what does it): each way in which a file is damaged."""
    data, stat = path.read_bytes(), path.stat()
    flipped = bytearray(data or b"x")
    flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    yield "deleted", path.unlink
    yield "cut", lambda: path.write_bytes(data[: chance.randrange(len(data))] if data else b"x")
    yield "changed", lambda: path.write_bytes(flipped if data else b"y")
    yield "changed, its time put back", lambda: put(path, bytes(flipped) if data else b"y", stat)


def test_every_file_of_a_build_that_is_deleted_cut_or_changed_is_made_again(copied):
    assert says(copied) == []
    chance = random.Random(5)
    results = sorted((copied.path / "results").rglob("*"))
    files = [path for path in results if path.is_file() and path.name != ".snakemake_timestamp"]
    assert len(files) > 100
    for path in files if os.environ.get("MOULT_SOAK") else chance.sample(files, 12):
        data, stat = path.read_bytes(), path.stat()
        for how, damage in damages(path, chance):
            damage()
            said = says(copied)
            assert said and all(line.endswith(" is made again.") for line in said), (path, how)
            put(path, data, stat)
    assert says(copied) == []


def test_a_dry_run_says_it_and_changes_nothing_and_a_build_mends_it(copied):
    results = copied.path / "results" / "pico"
    summary, differences = results / "scores" / "summary.csv", results / "scores" / "differences.csv"
    right = {path: path.read_bytes() for path in (summary, differences)}
    changed = differences.read_text().replace("0.0", "0.7")
    differences.write_text(changed)
    run = copied.snakemake("--dry-run")
    assert "scores/differences.csv: has other bytes than" in run.stdout + run.stderr
    assert differences.read_text() == changed
    rules = rules_of(run)
    assert {"tabulate_scores", "plot_scores", "write_report"} <= rules
    assert not {"prepare_dataset", "finetune_lora", "predict_labels"} & rules
    run = copied.snakemake("--", "results/pico/scores/summary.csv")
    assert run.returncode == 0, run.stdout + run.stderr
    assert {path: path.read_bytes() for path in right} == right
    assert says(copied) == []


def test_only_what_was_asked_for_is_made_again(copied):
    results = copied.path / "results" / "pico"
    (results / "predictions" / "labels" / "base.jsonl").write_text("")
    (results / "datasets" / "moods" / "test.parquet").unlink()
    assert copied.planned_rules("--", "results/pico/datasets/moods") == {"prepare_dataset"}


def test_a_recipe_counts_where_snakemake_remembers_nothing(copied):
    shutil.rmtree(copied.path / ".snakemake")
    assert says(copied) == []
    config = copied.config
    config["models"][2]["finetune"]["lora"]["rank"] = 4
    copied.config = config
    (said,) = says(copied)
    assert "adapters/moods_sft.manifest.json: is of another recipe than the config's (lora)" in said
    assert says(copied, params=False) == []
    assert {"finetune_lora", "merge_models"} <= copied.planned_rules()


@pytest.mark.parametrize("older", [False, True])
def leakage(config):
    config["datasets"][1]["leakage"] = {"near": 0.7}


def labels(config):
    config["suites"][0]["labels"]["max_tokens"] = 5


def rank(config):
    config["models"][2]["finetune"]["lora"]["rank"] = 4


def density(config):
    config["models"][3]["merge"]["parents"][0]["density"] = 0.7


def planned_after(folder, *changes):
    """Return what is planned after all changes at once; the config is put back."""
    before, config = folder.config, folder.config
    for change in changes:
        change(config)
    folder.config = config
    planned = folder.planned()
    folder.config = before
    return planned


def test_what_changed_where_no_run_reaches_is_planned_at_once(copied):
    """Training waits for the table of leakage, but does not follow it: neither does what is measured of its model."""
    planned = planned_after(copied, leakage, labels)
    assert {"leakage/moods.csv", *(f"predictions/labels/{name}.jsonl" for name in ("base", "merged"))} <= planned
    assert not [path for path in planned if path.startswith(("datasets", "adapters", "models", "corpora"))]


@pytest.mark.soak
@pytest.mark.parametrize("remembered", [True, False])
def test_changes_at_once_are_planned_as_each_alone(copied, remembered):
    if not remembered:
        shutil.rmtree(copied.path / ".snakemake")
    alone = {change: planned_after(copied, change) for change in (leakage, labels, rank, density)}
    assert all(alone.values())
    for one, other in itertools.combinations(alone, 2):
        assert planned_after(copied, one, other) == alone[one] | alone[other], (one, other)


@pytest.mark.soak
def test_one_build_makes_all_that_changed(copied):
    config = copied.config
    for change in (leakage, labels, density):
        change(config)
    copied.config = config
    run = copied.snakemake()
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Nothing to be done" in copied.snakemake("--dry-run").stdout


@pytest.mark.parametrize("older", [False, True])
def test_the_users_files_count_by_their_bytes_whatever_their_times(copied, older):
    models, table = copied.path / "models" / "base", copied.path / "data" / "moods" / "test.tsv"
    for touched in (models / "model.safetensors", table):
        touched.touch()
    (models / ".DS_Store").write_text("not of the model")
    assert says(copied) == []
    for path in (models / "model.safetensors", table):
        data, stat = bytearray(path.read_bytes()), path.stat()
        data[-2] ^= 1
        with open(path, "r+b") as handle:
            handle.write(data)
        if older:
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 10**12))
    said = " ".join(says(copied))
    assert "models/base/model.safetensors: has changed" in said and "data/moods/test.tsv: has changed" in said


def test_a_file_more_in_a_models_folder_counts_where_it_is_of_the_model(copied):
    (copied.path / "models" / "base" / "notes.log").write_text("mine")
    assert says(copied) == []
    (copied.path / "models" / "base" / "merges.txt").write_text("a b")
    (said,) = says(copied)
    assert said.startswith("models/base/merges.txt: is new")


def test_results_of_before_there_were_seals_and_digests_are_current(copied):
    results = copied.path / "results" / "pico"
    for path in results.rglob("*.manifest.json"):
        manifest, stat = json.loads(path.read_text()), path.stat()
        if manifest["rule"] in {stage.rule for stage in STAGES if not stage.sealed}:
            path.unlink()
            continue
        del manifest["seal"]
        manifest.pop("local", None)
        text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        put(path, text.encode(), stat)
    shutil.rmtree(copied.path / "scratch" / "seen")
    assert says(copied) == []


def test_verify_compares_what_no_time_tells_of(copied):
    path = copied.path / "results" / "pico" / "models" / "merged" / "model.safetensors"
    assert verified(copied).returncode == 0
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    run = verified(copied)
    assert run.returncode != 0 and "merged/model.safetensors: has other bytes than" in run.stdout


def verified(folder):
    """Run what `make verify` runs."""
    command = [sys.executable, "-m", "moult.planning.verify", "pico.yaml"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    return subprocess.run(command, cwd=folder.path, env=environment, capture_output=True, text=True, check=False)


def test_what_is_gone_as_a_whole_waits_until_it_is_needed(copied: Folder):
    shutil.rmtree(copied.path / "results" / "pico" / "models" / "moods_sft")
    assert says(copied) == []


def test_what_is_gone_as_a_whole_was_of_a_recipe_and_of_files(copied):
    """What was made with it is no other than with what would come in its place."""
    models = copied.path / "results" / "pico" / "models"
    for name in ("merged", "base"):
        shutil.rmtree(models / name)
    config = copied.config
    density(config)
    copied.config = config
    (copied.path / "models" / "base" / "merges.txt").write_text("a b")
    first, second = sorted(says(copied))
    assert first.startswith("models/base/merges.txt: is new")
    assert "models/merged.manifest.json: is of another recipe than the config's" in second
