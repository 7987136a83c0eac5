"""Every mistake of docs/config-mistakes.md is one sentence, and a sample of them is by Snakemake itself."""

import contextlib
import os
import re
import sys
from pathlib import Path

import pytest
import warm
import yaml
from config_mistakes import CASES, PAGE, RIGHT, make, page, sentence_of, write_right
from moult.planning.check_config import check, main

ROOT = Path(__file__).parents[3]
# Of files that are no YAML, Snakemake itself speaks; of the template engine's key, nothing is left to be seen.
UNSEEN = {"a tag that would run code", "a key that would run code", "a list in place of keys", "UTF-16", "Latin-1"}
UNSEEN |= {"no such file"}
SAMPLE = {"a key that stands twice", "a misspelt column", "a field that rows have not"}


def test_what_is_said_is_what_the_page_says():
    assert page() == PAGE.read_text(encoding="utf-8"), "run tests/config_mistakes.py"


def test_each_mistake_is_one_sentence_with_place_and_remedy():
    told = [line.split(" | ")[1] for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    told = [one.removesuffix(" |") for one in told if one.startswith("config.yaml")]
    assert len(told) == sum(map(len, CASES.values())) > 80
    for one in told:
        assert "<br>" not in one and re.search(r"[.?]$", one), one
        assert not re.search(r"Input should|Value error|valid (string|integer|list)|Errno|Traceback", one), one
        assert re.search(r"; |did you mean|\b(write|say|needs)\b", one), f"no remedy: {one}"


def test_without_a_mistake_nothing_is_said(tmp_path, monkeypatch, capsys):
    write_right(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(RIGHT))
    monkeypatch.chdir(tmp_path)
    assert check("config.yaml", lambda line: None).name == "tiny"
    assert main(["config.yaml"]) == 0
    assert "config.yaml: right; 3 datasets" in capsys.readouterr().out


def snakemake(folder, *targets):
    """Return the status of a dry run, and what it says behind its banner."""
    command = [sys.executable, "-m", "snakemake", *targets, "-n", "-c1", "--snakefile", str(ROOT / "Snakefile")]
    run = warm.run([*command, "--configfile", "config.yaml"], cwd=folder)
    return run.returncode, run.stdout + run.stderr


WHOLE = bool(os.environ.get("MOULT_SOAK"))


@pytest.mark.slow
def test_snakemake_says_the_same_and_nothing_behind_it(tmp_path):
    cases = {wrong: edit for cases in CASES.values() for wrong, edit in cases.items()}
    no_yaml = {line.split(" | ")[0].strip("| ") for line in PAGE.read_text().splitlines() if ": not YAML: " in line}
    # A prompt that is no YAML is ours to tell.
    seen = (cases.keys() - UNSEEN - no_yaml) | {"a prompt that is no YAML"}
    for number, wrong in enumerate(sorted(seen if WHOLE else SAMPLE)):
        folder = tmp_path / str(number)
        folder.mkdir()
        told = sentence_of(cases[wrong], folder).replace("&lt;folder>", str(folder))
        status, said = snakemake(folder)
        lines = [line for line in said.strip().splitlines() if not line.startswith("Using workflow specific profile")]
        assert status == 1 and len(lines) == 1, (wrong, said)
        assert lines[0].replace(f"{folder}/config.yaml", "config.yaml") == told


@pytest.mark.slow
def test_an_unknown_target_is_told_with_what_there_is(tmp_path):
    make(lambda config, folder: None, tmp_path)
    status, said = snakemake(tmp_path, "merged")
    last = [line for line in said.strip().splitlines() if not line.startswith("Using workflow specific profile")][-1]
    assert status == 1
    assert last.startswith("target 'merged': nothing makes it; did you mean results/tiny/models/merged")


def test_make_runs_no_code_of_a_config(tmp_path):
    (tmp_path / "c.yaml").write_text("__use_yte__: true\nname: ?__import__('os').system('touch pwned') or 'x'\n")
    with contextlib.chdir(tmp_path):
        assert main(["c.yaml"]) == 1
    assert not list(tmp_path.glob("pwned*"))
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)+)", makefile, re.MULTILINE):
        name, recipe = target
        if re.search(r"\bsnakemake ", recipe):
            checked = re.search(r"\$\(CHECKED\)|check_config", recipe)
            assert checked and checked.start() < recipe.index("snakemake"), f"make {name} starts Snakemake unchecked"
