"""A set's probes from encodings to scores: what is planted is found, what is not there is not; a killed job."""

import json
from pathlib import Path
from types import SimpleNamespace as Space

import pytest
import torch
from moult.base.files import read_jsonl
from moult.evaluation.probing import encode, run
from moult.evaluation.probing.run import probe_set, seen_in_train
from moult.evaluation.probing.scores import set_metrics
from moult.evaluation.probing.sets import ProbeSet, Row
from moult.evaluation.probing.units import Unit
from pico import build_pico_model

ROOT = Path(__file__).parents[4]
TRAINING = {
    "dropout": 0.2,
    "learning_rate": 1e-3,
    "batch": 16,
    "epochs": 20,
    "patience": 5,
    "warmup": 0.1,
    "penalty": 0,
}
RECIPE = {"probes": ["linear"], "portions": [1], "controls": ["random_weights", "random_labels"], "seed": 3}
RECIPE |= {"seeds": [0, 1, 2, 3, 4], "training": TRAINING, "hidden": 8, "code_length": False}


class Planted:
    """Encodings in which weights that were trained hold the label of a text, and random ones do not."""

    layers, width = [0, 6], 24

    def vectors(self, weights, slots, layers):
        rows = []
        for (unit,) in slots:
            number = int(unit.texts[0].split()[1])
            vector = torch.randn(self.width, generator=torch.Generator().manual_seed(number))
            if weights == "trained":
                vector[number % 2] += 6
            rows.append(vector)
        # The first layer knows nothing.
        noise = torch.randn(len(rows), self.width, generator=torch.Generator().manual_seed(len(rows)))
        return torch.stack([(noise, torch.stack(rows))[layer] for layer in layers])


def numbered(regression=False):
    splits = ["train"] * 800 + ["dev"] * 100 + ["test"] * 300
    units = [Unit((f"Text {number}",)) for number in range(len(splits))]
    rows = [
        Row(str(n), split, (unit,), n % 2 + (n % 7 / 100 if regression else 0), unit.texts)
        for n, (split, unit) in enumerate(zip(splits, units, strict=True))
    ]
    return ProbeSet("numbers", "SENTENCE", 1 if regression else 2, tuple(rows), "syntax", "parity")


def test_what_is_planted_is_found_and_selectivity_says_so():
    (line,) = probe_set(RECIPE, numbered(), Planted())
    found = set_metrics(line, 6, 1)
    assert found["score"][1].value > 0.98
    for control in ("random_labels", "random_weights"):
        low, high = found[f"control_{control}"][1].interval
        assert low < 0.5 < high
        assert found[f"selectivity_{control}"][1].interval[0] > 0
    low, high = set_metrics(line, 0, 1)["score"][1].interval
    assert low < 0.5 < high
    plain = {tuple(one["pred"]) for one in line["runs"] if (one["control"], one["layer"]) == ("none", 0)}
    assert len(plain) == 5


def test_a_regression_reports_pearson():
    (line,) = probe_set(RECIPE | {"controls": []}, numbered(regression=True), Planted())
    assert line["uniform_bits"] is None and all(one["bits"] is None for one in line["runs"])
    assert set_metrics(line, 6, 1)["score"][1].value > 0.95


def test_layers_probed_in_groups_are_those_probed_at_once(monkeypatch):
    recipe = RECIPE | {"seeds": [0], "probes": ["linear", "mlp"], "portions": [0.5, 1]}
    recipe |= {"training": TRAINING | {"epochs": 3}}
    whole = list(probe_set(recipe, numbered(), Planted()))
    monkeypatch.setattr(run, "MOST_BYTES", 1)
    parts = list(probe_set(recipe, numbered(), Planted()))
    key = lambda one: (one["layer"], one["control"], one["seed"])  # noqa: E731
    for ours, theirs in zip(whole, parts, strict=True):
        assert sorted(ours["runs"], key=key) == sorted(theirs["runs"], key=key)
    assert [(one["probe"], one["portion"]) for one in whole] == [
        ("linear", 0.5),
        ("linear", 1),
        ("mlp", 0.5),
        ("mlp", 1),
    ]


def test_seen_is_by_whole_inputs():
    def row(split, *words):
        return Row("0", split, (Unit(words),), 0.0, words)

    rows = [row("train", "Anna sleeps.", "Ben waits."), row("dev", "x", "y"), row("test", "Anna sleeps.", "Ben waits.")]
    rows += [row("test", "Anna sleeps.", "Carl waits."), row("test", "A", "B")]
    assert seen_in_train(ProbeSet("s", "SENTENCE_PAIR_BI", 2, tuple(rows), "", "")) == [True, False, False]


@pytest.fixture
def job(tmp_path):
    build_pico_model(tmp_path / "model")
    recipe = RECIPE | {"sets": ["rule-tense", "rule-order"], "limit": 12, "suite": "s", "model": "m", "layers": [-1]}
    recipe |= {"special_tokens": True, "dtype": "float16", "compute": {"dtype": "float32", "batch_size": 8}}
    recipe |= {"training": TRAINING | {"epochs": 2}, "seeds": [0, 1], "controls": ["permutation", "random_weights"]}
    inputs = Space(
        model=str(tmp_path / "model"), encodings=str(tmp_path / "enc"), sets=[str(ROOT / "resources/holmes")]
    )
    outputs = Space(encodings=tmp_path / "enc", probes=tmp_path / "probes.jsonl")
    return Space(
        recipe=recipe, inputs=inputs, outputs=outputs, threads=1, scratch=tmp_path / "scratch", facts={}, used={}
    )


def test_both_jobs_say_what_they_did_and_a_killed_one_does_nothing_twice(job, monkeypatch):
    encode.run(job)
    facts = job.facts
    assert facts["sets"] == 2 and facts["rows"] == 72 and facts["width"] == 32 and facts["layers"] == [2]
    assert facts["bytes"] == 2 * 32 * (facts["trained"]["units"] + facts["random"]["units"])
    assert json.loads(json.dumps(facts)) == facts
    assert list(job.used.values())[0][0].endswith("samples.csv")
    run.run(job)
    first = job.outputs.probes.read_bytes()
    assert [row["dataset"] for row in read_jsonl(job.outputs.probes)] == ["rule-tense", "rule-order"]
    # What is there is not encoded again, and what was probed is not probed again.
    monkeypatch.setattr(encode.Reader, "encode", None)
    encode.run(job)
    monkeypatch.setattr(run, "probe_set", None)
    run.run(job)
    assert job.outputs.probes.read_bytes() == first
