"""A study lives in a folder of its own, and a workflow of somebody else's takes Moult as a module."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from moult.base.errors import UserError
from moult.config.load import load
from moult.data.prompts import load_template
from moult.jobs.slurm import record_run
from moult.planning.new_study import new_study
from moult.planning.start import checked_config
from pico_build import ROOT, Folder, write_config

FOREIGN = """
rule all:
    input:
        "mine.txt",
        "results/pico/datasets/moods",

rule mine:
    output:
        "mine.txt",
    shell:
        "touch {{output}}"

module moult:
    snakefile:
        {snakefile}
    config:
        config["moult"]

use rule * from moult as moult_*
"""
TABLE_RULES = ("fetch_dataset", "prepare_dataset")
OURS = repr(str(ROOT / "Snakefile"))


def foreign(folder, snakefile=OURS):
    """Let a folder of the pico build be one of somebody else's workflow that has Moult as a module."""
    write_config(folder.path / "theirs.yaml", {"moult": folder.config})
    (folder.path / "theirs.smk").write_text(FOREIGN.format(snakefile=snakefile))
    return lambda *arguments, **variables: subprocess.run(
        [sys.executable, "-m", "snakemake", "-s", "theirs.smk", "--configfile", "theirs.yaml", "-c2", *arguments],
        cwd=folder.path,
        env=folder.environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_module_s_results_are_those_of_the_workflow_itself(unbuilt, tmp_path, server):
    own = Folder(shutil.copytree(unbuilt.path, tmp_path / "own"), server)
    assert own.snakemake("results/pico/datasets/moods").returncode == 0
    run = foreign(unbuilt)()
    assert run.returncode == 0, run.stdout + run.stderr
    assert (unbuilt.path / "mine.txt").exists() and "moult_prepare_dataset" in run.stderr
    assert not (unbuilt.path / "results/pico/models").exists(), "their target is the default, not ours"
    assert unbuilt.manifests() == own.manifests() != {}
    assert unbuilt.planned("results/pico/datasets/moods") == set()
    for folder in ("logs/pico", "scratch/locks"):
        assert {path.name for path in (unbuilt.path / folder).iterdir() if path.name != "benchmarks"} == {*TABLE_RULES}


def test_the_locks_of_a_foreign_workflow_stay(unbuilt):
    lock = unbuilt.path / ".snakemake" / "locks" / "0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("mine.txt\n")
    run = foreign(unbuilt)()
    assert run.returncode != 0 and "cannot be locked" in run.stdout + run.stderr
    assert lock.exists() and not (unbuilt.path / ".snakemake" / "alive.lock").exists()


@pytest.mark.parametrize("whose", ["theirs", "ours"])
def test_only_our_own_scheduler_asks_slurm_for_jobs_to_cancel(unbuilt, tmp_path, whose):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("squeue", "scancel"):
        (programs / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/asked\n")
        (programs / name).chmod(0o755)
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_ACCOUNT": "x"}
    # A scheduler of this experiment that is gone.
    record_run(unbuilt.path / ".snakemake" / "slurm_runs", "pico", "0b1f2c3d")
    on_slurm = ("results/pico/raw/moods", "--default-resources", "slurm_account=x")
    if whose == "theirs":
        run = foreign(unbuilt)(*on_slurm, **variables)
    else:
        run = subprocess.run(
            unbuilt.command(*on_slurm), cwd=unbuilt.path, env=unbuilt.environment() | variables, capture_output=True
        )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "asked").exists() == (whose == "ours")


def test_the_catalogue_s_snakefile_plans_what_ours_plans(unbuilt):
    ours = unbuilt.planned_rules()
    theirs = unbuilt.planned_rules("--snakefile", str(ROOT / "workflow" / "Snakefile"))
    assert theirs - {"default"} == ours - {"all"} and "default" in theirs
    run = foreign(unbuilt, repr(str(ROOT / "workflow" / "Snakefile")))("-n")
    assert run.returncode == 0 and "moult_prepare_dataset" in run.stdout and "moult_fold_adapter" not in run.stdout
    listed = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())
    assert listed["usage"]["mandatory-flags"]["flags"]


def test_a_module_may_come_from_a_hosting_service(unbuilt, tmp_path):
    hosted = tmp_path / "host" / "owner" / "moult"
    hosted.mkdir(parents=True)
    for name in ("scripts", "rules", "envs", "workflow", "resources/prompts", "resources/labels", "resources/report"):
        shutil.copytree(ROOT / name, hosted / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("resources/presets", "resources/reference"):
        shutil.copytree(ROOT / name, hosted / name)
    shutil.copy(ROOT / "Snakefile", hosted)
    git = ["git", "-C", hosted, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"], ["tag", "v1"]):
        subprocess.run([*git, *arguments], check=True)
    settings = {f"url.{tmp_path}/host/.insteadOf": "https://github.com/", "safe.directory": "*"}
    variables = {"GIT_CONFIG_COUNT": str(len(settings)), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for number, (key, value) in enumerate(settings.items()):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    run = foreign(unbuilt, 'github("owner/moult", path="workflow/Snakefile", tag="v1")')(**variables)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (unbuilt.path / "results/pico/datasets/moods.manifest.json").exists()


def own_files(folder):
    """Write a prompt and label sets of a study's own, one of each in place of a shipped one."""
    for name, text in {
        "prompts/mmla/text.yaml": "user: '{{ text }}'\nanswer: '{{ label }}'\n",
        "prompts/deep/down/mine.yaml": "user: 'Mine: {{ text }}'\nanswer: '{{ label }}'\n",
        "labels/mine.yaml": "task: my_mood\nlabels: [good, bad]\n",
        "labels/MELD.yaml": "dataset: M\ntask: mood\ntask_words: mood\nlanguage: en\nlabels: [good, bad]\n",
        "labels/wrong.yaml": "labels: [good, bad]\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def labelled(**fields):
    """Return a config with one dataset of labels, fetched from elsewhere."""
    files = {"train": {"url": "https://example.org/train.csv"}}
    return {"name": "s", "datasets": [{"name": "d", "format": "mmla", "files": files, **fields}]}


def test_own_prompts_and_labels_win_over_those_that_come_with_moult(tmp_path, monkeypatch):
    shipped = load_template("mmla/text")
    own_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load_template("mmla/text") == {"user": "{{ text }}", "answer": "{{ label }}"} != shipped
    (dataset,) = load(labelled(labels="mine", prompt="deep/down/mine")).datasets
    assert load_template(dataset.template)["user"] == "Mine: {{ text }}"
    assert dataset.label_set == {
        "dataset": "mine",
        "task": "my_mood",
        "task_words": "my mood",
        "language": "und",
        "labels": ["good", "bad"],
    }
    told = []
    cfg = checked_config(labelled(labels="MELD"), "s.yaml", told.append, speaks=True)
    assert cfg.datasets[0].label_set["labels"] == ["good", "bad"]
    assert [line.split(":")[0] for line in told][:2] == ["prompts/mmla/text.yaml", "labels/MELD.yaml"]
    with pytest.raises(UserError, match=r"labels: .*labels/wrong.yaml needs `task:`"):
        load(labelled(labels="wrong"))
    monkeypatch.chdir("/")
    assert load_template("mmla/text") == shipped
    with pytest.raises(UserError, match="'mine' is not in resources/labels/ or labels/"):
        load(labelled(labels="mine"))


def test_the_study_is_the_folder_that_snakemake_is_told(unbuilt, tmp_path):
    own_files(unbuilt.path)
    config = unbuilt.config
    config["datasets"][1] |= {"labels": "mine", "prompt": "deep/down/mine"}
    unbuilt.config = config
    command = [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "--directory", unbuilt.path, "-c1"]
    command += ["--configfile", unbuilt.path / "pico.yaml", "--", "results/pico/datasets/moods"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=unbuilt.environment())
    assert run.returncode == 0, run.stdout + run.stderr
    recipe = json.loads((unbuilt.path / "results/pico/datasets/moods.manifest.json").read_text())["recipe"]
    assert recipe["label_set"]["task"] == "my_mood"


def test_home_and_variables_in_paths_are_written_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path / "d"))
    files = {"train": "~/a.tsv", "dev": "$DATA/b.tsv", "test": "$HOME/c.tsv"}
    videos = {"path": "${DATA}/v"}
    (dataset,) = load(labelled(labels="MELD", videos=videos)).datasets
    assert dataset.videos.path == f"{tmp_path}/d/v"
    raw = labelled(labels="MELD")
    raw["datasets"][0]["files"] = files
    raw["models"] = [{"name": "m", "fetch": {"path": "~/m"}, "parameters": 1}]
    cfg = load(raw)
    assert [cfg.datasets[0].files[split][0].path for split in files] == [
        f"{tmp_path}/a.tsv",
        f"{tmp_path}/d/b.tsv",
        f"{tmp_path}/c.tsv",
    ]
    assert cfg.models[0].fetch.path == f"{tmp_path}/m"


def test_a_new_study_runs_by_its_readme_wherever_it_and_moult_are(tmp_path):
    place = tmp_path / 'it\'s my "work"'
    checkout = place / "our moult"
    for name in ("scripts", "rules", "envs", "profiles", "resources", "config"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__", "video"))
    shutil.copy(ROOT / "Snakefile", checkout)
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    study = place / "my study"
    make = [sys.executable, "-m", "moult.planning.new_study", study]
    environment = os.environ | {"PYTHONPATH": str(checkout / "scripts"), "SLURM_ACCOUNT": ""}
    assert subprocess.run(make, env=environment, capture_output=True, text=True, check=False).returncode == 0
    assert "\nname: my-study " in (study / "config.yaml").read_text()
    again = subprocess.run(make, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode != 0 and "holds README.md, config.yaml" in again.stderr
    assert len(again.stderr.splitlines()) == 1

    moved = tmp_path / 'else\'s "where"'
    place.rename(moved)
    study = moved / "my study"

    def bash(script):
        """Run a script in the study; return what it says."""
        command = ["bash", "-ec", script]
        run = subprocess.run(command, cwd=study, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    activate, *commands = (study / "README.md").read_text().split("```")[1].strip().splitlines()
    assert len(commands) == 3
    for command in commands:
        assert "finetune_lora" in bash(f"{activate}\n{command.split('#')[0]} -n")
    # Not dry, and by a Python whose path has blanks and quotes.
    python = shlex.quote(str(moved / "our moult/.venv/bin/python"))
    bash(f"{python} -m snakemake --profile profiles/local results/my-study/datasets/moods")
    assert (study / "results/my-study/datasets/moods.manifest.json").exists()


def test_a_study_far_from_moult_names_it_by_its_whole_path(tmp_path):
    files = new_study(tmp_path / "a" / "b")
    assert {path.relative_to(tmp_path / "a" / "b").as_posix() for path in files} == {
        "README.md",
        "config.yaml",
        "profiles/local/profile.yaml",
        "profiles/slurm/profile.yaml",
    }
    profile = yaml.safe_load((tmp_path / "a" / "b" / "profiles/slurm/profile.yaml").read_text())
    assert profile["snakefile"] == str(ROOT / "Snakefile") and profile["configfile"] == ["config.yaml"]
    shipped = [yaml.safe_load((ROOT / f"profiles/{name}/profile.yaml").read_text()) for name in ("default", "slurm")]
    assert profile == shipped[0] | shipped[1] | {key: profile[key] for key in ("snakefile", "configfile")}
