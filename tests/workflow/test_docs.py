"""Every command of the docs is run: builds as dry runs, the rest as it stands; what cannot be run here says why."""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import warm
import yaml
from checkout import copy_checkout
from pico_build import ROOT

PAGES = [ROOT / "README.md", ROOT / "config" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Its blocks are followed in order by test_tutorial.py.
TUTORIAL = ROOT / "docs" / "tutorial.md"
SHELL = ("", "bash", "sh", "console")

# The first pattern that a command begins with says what is done with it: `dry` (a build: with -n), `make` (by make -n;
# builds among what that prints are run with -n), `run`, or, in words, why it is not run here.
HOW = {
    r"snakemake .*--sdm (conda|apptainer)": "needs conda or apptainer; test_style.py tells what is planned without",
    r"snakemake -s path/to/moult": "needs a study; test_study_folder.py makes one",
    r"snakemake ": "dry",
    r"make new\b": "make",
    r"make check-config CONFIG=path": "a stranger's config; test_mistakes.py has some",
    r"make (check-config|needs|estimate|schema)\b": "run",
    r"make efficiency\b": "needs the logs of a build; test_efficiency.py has some",
    r"make build\b": "builds in several steps; test_passing.py does",
    r"make publish\b": "needs a hub; test_publish.py has one",
    r"make (demos|plans)\b": "all that is shipped, one after another; test_plans.py has a part of it",
    r"make verify\b": "needs a build; test_standing.py has one",
    r"make (demo|test|test-server|test-soak|test-cluster|check|dag|pin|clean|\.venv/ready)\b": "make",
    r"(cp|export) ": "run",
    r"(git clone|cd) ": "needs a network",
    r"source (\.\./moult/)?\.venv/bin/activate": "these tests have a Python of their own",
    r"(sacctmgr|sinfo|squeue) ": "needs a cluster; tests/cluster has one",
    r"apptainer ": "needs apptainer",
    r"(Snakefile|\w+/) ": "a list of files, no command",
}


def commands_of(page):
    """Return the commands of a page: lines of its shell blocks, and what its text names that begins with make or
    snakemake."""
    text = page.read_text(encoding="utf-8")
    found, kind = [], None
    for line in text.splitlines():
        if fence := re.match(r" *```(\w*)", line):
            kind = fence[1] if kind is None else None
        elif kind in SHELL and page != TUTORIAL:
            found += [part.strip() for part in line.split(" && ")]
        elif kind is None:
            found += re.findall(r"`((?:make|snakemake) [^`]+)`", line)
    return [command for line in found if (command := " ".join(re.sub(r"(^|\s)#.*", "", line).split()))]


COMMANDS = {command: page.relative_to(ROOT).as_posix() for page in PAGES for command in commands_of(page)}


def how(command):
    return next((how for pattern, how in HOW.items() if re.match(pattern, command + " ")), None)


def test_every_command_is_one_that_is_run_or_says_why_not():
    assert len(COMMANDS) > 20
    unknown = [f"{page}: {command}" for command, page in COMMANDS.items() if how(command) is None]
    assert not unknown, "say in HOW what is to be done with them"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout with a config/mine.yaml: the demo, with a model `tuned`, which the pages name."""
    folder = copy_checkout(tmp_path_factory.mktemp("docs") / "moult")
    demo = (ROOT / "config" / "config.yaml").read_text().replace("advisor", "tuned")
    config = yaml.safe_load(demo) | {"name": "mine"}
    (folder / "config" / "mine.yaml").write_text(yaml.safe_dump(config))
    # What `make` would install is there.
    (folder / ".venv").mkdir()
    shutil.copy(folder / "requirements.lock", folder / ".venv" / "ready")
    return folder


@functools.cache
def bash(command, checkout):
    """Return what a command says, run at the top of the checkout; once, however often it is asked for."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"HOME": str(checkout.parent), "SLURM_ACCOUNT": ""}
    if plain := re.fullmatch(r"(?:PYTHONPATH=scripts )?snakemake ([^;&|<>$]*)", command):
        run = warm.run([sys.executable, "-m", "snakemake", *shlex.split(plain[1])], cwd=checkout, env=environment)
    else:
        run = subprocess.run(
            ["bash", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
    assert run.returncode == 0, f"{command}\n{run.stdout}{run.stderr}"
    return run.stdout + run.stderr


def dry(command, checkout):
    planned = command if re.search(r" (-n|--dry-run)\b", command) else f"{command} -n"
    told = bash(planned, checkout)
    assert "This was a dry-run" in told or "Nothing to be done" in told


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if how(command) in ("dry", "make", "run")], ids=lambda command: command
)
def test_the_command_does_what_it_should(command, checkout):
    if how(command) == "dry":
        dry(command, checkout)
    elif how(command) == "run":
        bash(command, checkout)
    else:
        for line in bash(command.replace("make ", "make -n ", 1), checkout).splitlines():
            if re.search(r"\bsnakemake .*--profile", line):
                dry(line, checkout)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name}: {link}"


def anchors(page):
    """Return what a heading of a page is reached by, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
