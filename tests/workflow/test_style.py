"""The project holds to its own rules: format, lint, one script per rule, the same pins everywhere."""

import os
import re
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest
import yaml
from moult.config.load import load_file
from moult.stages import BY_RULE, STAGES
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
TEXT = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
RULES = dict(re.findall(r"^use rule \w+ as (\w+) with:\n(.*?)(?=^\w|\Z)", TEXT, re.MULTILINE | re.DOTALL))


def run(*command, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "SLURM_ACCOUNT"} | variables
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


CHECKS = re.search(r"^check:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].splitlines()


@pytest.mark.parametrize("command", [line.strip() for line in CHECKS])
def test_make_check(command):
    found = run("bash", "-c", command, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_stage_has_its_rule_and_its_function_and_the_reverse():
    assert len(BY_RULE) == len(STAGES)
    assert RULES.keys() == BY_RULE.keys()
    for stage in STAGES:
        module, function = stage.run.split(":")
        assert callable(getattr(import_module(module), function))
    assert [path.name for path in (ROOT / "scripts").glob("*.py")] == ["run_stage.py"]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.rule)
def test_every_rule_asks_its_own_stage_for_everything(stage):
    text = RULES[stage.rule]
    asked = re.findall(r'(\w+)_of\("(\w+)"\)', text)
    # Inputs even where there are none: when they are asked for, what is there is looked at.
    adaptors = {"threads", "needs", "params", "inputs"}
    adaptors |= {"names"} if stage.wildcards else set()
    assert set(asked) == {(adaptor, stage.rule) for adaptor in adaptors}
    job = "/".join([stage.rule, *(f"{{{name}}}" for name in stage.wildcards)])
    assert f'job="{job}",' in text
    assert f'"<results>/{stage.makes}/' in text


def rules_of_the_demo():
    """Return the rules that have a job in a build of the default config; `all` makes no exports."""
    cfg = load_file(ROOT / "config" / "config.yaml")
    return {stage.rule for stage in STAGES if stage.makes != "exports" and stage.planned(cfg)}


def pins(text):
    return dict(re.findall(r"^\W*([A-Za-z][\w.-]*)==(\S+)", text.lower().replace("_", "-"), re.MULTILINE))


def test_conda_environments_carry_the_pins_of_the_lock():
    locked = pins((ROOT / "requirements.lock").read_text())
    used = set(re.findall(r'"\.\./envs/(\w+)\.yaml"', TEXT))
    assert used == {path.stem for path in (ROOT / "envs").glob("*.yaml")}
    for name in used:
        packages = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())["dependencies"][-1]["pip"]
        for package, version in pins("\n".join(packages)).items():
            assert locked[package] == version, f"{name}: {package}"


def test_conda_environments_are_exact():
    for path in (ROOT / "envs").glob("*.yaml"):
        environment = yaml.safe_load(path.read_text())
        python, pip, packages = environment["dependencies"]
        assert environment["channels"] == ["conda-forge", "nodefaults"] and pip == "pip"
        assert python == "python=3.11"
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", package) for package in packages["pip"])
        names = [package.split("==")[0].lower() for package in packages["pip"]]
        assert len(names) == len(set(names))


def test_conda_environments_leave_nothing_to_the_solver():
    """What a pinned package needs is pinned, too, as far as the lock has it: pip has no choice left."""
    locked = pins((ROOT / "requirements.lock").read_text())
    for path in (ROOT / "envs").glob("*.yaml"):
        pinned = pins("\n".join(yaml.safe_load(path.read_text())["dependencies"][-1]["pip"]))
        for package in pinned:
            wanted = (Requirement(line) for line in metadata.requires(package) or [])
            needed = {
                re.sub("[-_.]+", "-", one.name).lower()
                for one in wanted
                if not one.marker or one.marker.evaluate({"extra": ""})
            }
            assert needed & locked.keys() <= pinned.keys(), f"{path.name}: {package}"


def test_the_container_is_made_of_the_lock():
    definition = (ROOT / "envs" / "container.def").read_text()
    header = dict(re.findall(r"^(Bootstrap|From): (.+)$", definition, re.MULTILINE))
    assert header == {"Bootstrap": "docker", "From": "python:3.11-slim"}
    assert re.findall(r"^%(\w+)$", definition, re.MULTILINE) == ["files", "post", "environment", "test"]
    assert "pip install --no-cache-dir -r /opt/requirements.lock" in definition


# What a dry run prints in place of its graph: what Snakemake would run each job in.
SURROUNDINGS = """
from snakemake.cli import main
from snakemake.dag import DAG

def told(dag):
    for job in dag.jobs:
        if not job.is_norun:
            environment = job.conda_env_spec.file.get_path_or_uri(secret_free=True)
            print("JOB", job.rule.name, job.container_img_url, environment)

DAG.d3dag = told
main(["-n", "--forceall", "--d3dag"])
"""


@pytest.mark.parametrize("container", [None, "moult.sif"])
def test_every_job_has_its_conda_environment_and_the_container_where_it_is_named(container):
    found = run(sys.executable, "-c", SURROUNDINGS, **({"MOULT_CONTAINER": container} if container else {}))
    assert found.returncode == 0, found.stdout + found.stderr
    jobs = [line.split()[1:] for line in found.stdout.splitlines() if line.startswith("JOB ")]
    kinds = {rule: kind for kind, rule in re.findall(r"^use rule on_(\w+) as (\w+) with:", TEXT, re.MULTILINE)}
    assert {rule for rule, *_ in jobs} == rules_of_the_demo()
    for rule, image, environment in jobs:
        assert (image, Path(environment).name) == (str(container), f"{kinds[rule]}.yaml"), rule


def test_the_lock_holds_what_is_asked_for_and_nothing_local():
    locked, wanted = (pins((ROOT / f"requirements.{end}").read_text()) for end in ("lock", "in"))
    assert wanted.items() <= locked.items()
    assert "+" not in locked["torch"]
    assert not [name for name in locked if name.startswith(("nvidia", "triton", "torchvision"))]


def test_parsing_the_workflow_imports_nothing_heavy():
    found = run(
        sys.executable,
        "-c",
        "import sys; sys.path.insert(0, 'scripts')\n"
        "import moult.stages, moult.planning.start, moult.jobs.job\n"
        "print([m for m in ('torch', 'transformers', 'pandas', 'sklearn', 'numpy', 'openai') if m in sys.modules])",
    )
    assert found.stdout.strip() == "[]", found.stdout + found.stderr


def test_the_slurm_profile_plans_every_job_with_its_resources(tmp_path):
    """By the literal words a user types, from the project's root, no cluster present; here with nothing built."""
    config = (ROOT / "config" / "config.yaml").read_text().replace("name: demo\n", "name: never_built\n", 1)
    (tmp_path / "demo.yaml").write_text(config)
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--profile",
        "slurm",
        "-n",
        "--configfile",
        str(tmp_path / "demo.yaml"),
    ]
    unset = run(*command)
    assert unset.returncode != 0 and "SLURM_ACCOUNT is not set: export the account" in unset.stdout + unset.stderr
    found = run(*command, SLURM_ACCOUNT="")
    assert found.returncode == 0, found.stdout + found.stderr
    jobs = re.findall(
        r"^ *Job \d+: (\w+):.*\((\d+) CPUs, (?:(\d+) GPUs, )?(\d+) MB, (\d+) min\)$", found.stdout, re.MULTILINE
    )
    assert {rule for rule, *_ in jobs} == rules_of_the_demo()
    assert len(jobs) == 46
    assert all(int(cpus) >= 1 and int(memory) >= 1000 and int(minutes) >= 10 for _, cpus, _, memory, minutes in jobs)
