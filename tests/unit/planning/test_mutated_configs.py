"""Mutated configs through planning: each is planned, or refused in sentences, within seconds and bounded memory.

`make test-soak` drives a thousand of them through Snakemake's dry run; here a sample goes through the same checks.
"""

import contextlib
import copy
import io
import json
import os
import random
import signal
import sys
import time

import pytest
import yaml
from config_mistakes import RIGHT, write_right
from moult.base.errors import UserError
from moult.planning.check_config import check
from moult.stages import STAGES

WHOLE = bool(os.environ.get("MOULT_SOAK"))
COUNT, PATIENCE = 1000, 10
ODD = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    0.5,
    -0.1,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "a",
    "no",
]
ODD += [
    "../..",
    "-x",
    "--",
    "a/b",
    "a\nb",
    "\u202e",
    "{a}",
    "{{ a }}",
    "*",
    "&a",
    "~",
    "$HOME",
    "~nobody/x",
    "\0",
    "\ud83d",
]
ODD += ["x" * 3000, "1e400", "0x10", "1:30", "é", "base", "tuned", "questions", "moods", "teacher", "distilled", "data"]
ODD += [[], {}, [[]], [None], [1, 2, 3], ["a", "a"], {"a": 1}, {"name": "x"}, [{}], {"": ""}, {"for": {"a": [1]}}]
LETTERS = list("{}[]:,-&*!|>'\"%@`#?~<=\t\n \x00\x07\u2028é0aZ")


def places(node, path=()):
    """Yield the path of each value of plain data."""
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def mutated(draw):
    """Return the bytes of a config in which a few things are otherwise: values, keys, whole entries, or letters."""
    config = copy.deepcopy(RIGHT)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        where = draw.choice([path for path in places(config) if path])
        *path, last = where
        node = config
        for part in path:
            node = node[part]
        value, what = copy.deepcopy(draw.choice(ODD)), draw.randrange(6)
        if what == 0:
            del node[last]
        elif what == 1 and isinstance(node, list):
            node += copy.deepcopy(node) * draw.choice((1, 3))
        elif what == 2 and isinstance(node, dict):
            node[draw.choice(("x", "for", "rounds", "base", "<<", "__use_yte__", last + "s"))] = value
        elif what == 3:
            others = [other for other in places(config) if other]
            found = config
            for part in draw.choice(others):
                found = found[part]
            node[last] = copy.deepcopy(found)
        else:
            node[last] = value
    text = json.dumps(config) if draw.random() < 0.2 else yaml.safe_dump(config, allow_unicode=True)
    if draw.random() < 0.3:
        letters = list(text)
        for _ in range(draw.choice((1, 2, 8))):
            at = draw.randrange(len(letters))
            letters[at : at + draw.choice((0, 1, 1, 30))] = draw.choice(LETTERS)
        text = "".join(letters)
    return text.encode("utf-8", "surrogatepass")


def planned(path):
    """Check a config, and build every recipe and reference of its jobs, as a dry run does; UserError is an outcome."""
    with contextlib.suppress(UserError):
        cfg = check(path, lambda line: None)
        for stage in STAGES:
            for names in stage.names(cfg):
                if stage.recipe:
                    json.dumps(stage.recipe(cfg, *names))
                stage.inputs(cfg, *names)


@pytest.fixture
def study(tmp_path, monkeypatch):
    write_right(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_mutated_configs_are_planned_or_refused(study):
    for seed in range(COUNT if WHOLE else 150):
        (study / "c.yaml").write_bytes(mutated(random.Random(seed)))
        begun = time.monotonic()
        try:
            planned("c.yaml")
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
        assert time.monotonic() - begun < PATIENCE, f"seed {seed}"


@pytest.mark.skipif(not WHOLE, reason="make test-soak runs it")
def test_mutated_configs_through_snakemake(study):
    """A child per config, of a process that has imported Snakemake: no banner, no traceback, ten seconds."""
    from pathlib import Path

    from snakemake import cli

    root, refused = Path(__file__).parents[3], 0
    for seed in range(COUNT):
        (study / "c.yaml").write_bytes(mutated(random.Random(seed)))
        try:
            planned_here = check("c.yaml", lambda line: None)
        except UserError as error:
            planned_here = str(error)
        child = os.fork()
        if not child:
            # Of its own time on a processor: other work of the machine counts nothing.
            signal.setitimer(signal.ITIMER_PROF, PATIENCE)
            with open("said.txt", "w") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(number, "wb", 0)) for number in (1, 2))
            try:
                cli.main(["-n", "-c1", "--quiet", "--snakefile", str(root / "Snakefile"), "--configfile", "c.yaml"])
            except SystemExit as end:
                os._exit(end.code)
            os._exit(70)
        _, status = os.waitpid(child, 0)
        said = Path("said.txt").read_text(errors="replace")
        assert not os.WIFSIGNALED(status), f"seed {seed}: not planned in {PATIENCE} s: {said[-300:]}"
        if isinstance(planned_here, str):
            refused += 1
            assert os.WEXITSTATUS(status) == 1, f"seed {seed}: {planned_here} | {said[-300:]}"
        else:
            assert os.WEXITSTATUS(status) == 0 and "Traceback" not in said, f"seed {seed}: {said[-500:]}"
    assert refused > COUNT / 3
