"""Samples, scores and pairs through the real Snakefile: kills lose nothing, a further source asks for itself alone."""

import json
import os
import re
from collections import Counter

import pytest
from fusing import PROMPTS, asking_config, write_fusing
from moult.base.files import read_json, read_jsonl
from openai_server import OpenAIServer
from pico_build import Folder, write_config
from processes import kill_group, wait_for

COUNT = len(PROMPTS)


def reply(body):
    """Answer as the model that is asked; as the judge, grade by the number in an answer."""
    if body["model"] != "judge":
        return f"{body['model']} says {body['seed'] % 9 + 1} of {body['seed']}"
    names = body["response_format"]["json_schema"]["schema"]["properties"]["answer"]["required"]
    grade = re.search(r" says (\d) of", body["messages"][-1]["content"])[1]
    return json.dumps({"justification": "so", "answer": dict.fromkeys(names, int(grade))})


def write(folder):
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    write_config(folder / "pico.yaml", asking_config(("one", "two")))


def test_kills_lose_nothing_and_a_further_source_asks_for_itself_alone(tmp_path):
    with OpenAIServer(reply, delay=0.03) as server:
        write(tmp_path)
        folder = Folder(tmp_path, server)
        made = tmp_path / "results/asked/corpora"
        # Two sources and the target, three samples each; the judge grades each of them.
        samples = 3 * 3 * COUNT
        process = folder.start("corpora")
        wait_for(lambda: len(server.asked) >= 20)
        kill_group(process)
        process = folder.start("corpora")
        wait_for(lambda: sum(body["model"] == "judge" for body in server.asked) >= 10)
        kill_group(process)
        process = folder.start("corpora")
        wait_for(lambda: "Job " in (text := (tmp_path / "run.log").read_text()) and "build_preferences: " in text)
        kill_group(process)
        run = folder.snakemake("corpora")
        assert run.returncode == 0, run.stdout + run.stderr
        asked = Counter(json.dumps(body) for body in server.asked)
        # Of those in flight when it was killed, at most `concurrency` of each job are asked again.
        assert len(asked) == 2 * samples and sum(asked.values()) - len(asked) <= 8
        first = (made / "pairs.jsonl").read_bytes()
        whole = {name: read_jsonl(made / f"{name}.jsonl") for name in ("one-samples", "own-scores", "pairs")}
        assert len(whole["one-samples"]) == len(whole["own-scores"]) == 3 * COUNT
        for pair in whole["pairs"]:
            assert [one["policy"] for one in pair["chosen"]] == ["source", "target"]
            assert pair["chosen"][1]["reward"] >= pair["rejected"][0]["reward"] and pair["rm"] == "judge"
        facts = read_json(made / "pairs.manifest.json")["facts"]
        assert facts["rows"] + facts["rejects"] == facts["rows_in"] == COUNT
        assert "Nothing to be done" in folder.snakemake("-n", "corpora").stdout

        # A third source samples and scores itself, and remakes the pairs.
        folder.config = asking_config(("one", "two", "three"))
        assert folder.planned("corpora") == {
            f"corpora/{name}.jsonl" for name in ("three-samples", "three-scores", "pairs")
        }
        if not os.environ.get("MOULT_SOAK"):
            return
        before = len(server.asked)
        run = folder.snakemake("corpora")
        assert run.returncode == 0, run.stdout + run.stderr
        models = Counter(body["model"] for body in server.asked[before:])
        assert models == {"three": 3 * COUNT, "judge": 3 * COUNT}
        assert (made / "pairs.jsonl").read_bytes() != first
        assert "three-scores" in read_json(made / "pairs.manifest.json")["facts"]["won"]


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (
            lambda config: config["corpora"][-1].update(target="own-samples"),
            "target (corpora of scores): 'own-samples'",
        ),
        (
            lambda config: config["corpora"][3].update(corpus="pairs"),
            "asked (corpora of samples): 'pairs' is not there",
        ),
        (
            lambda config: config["corpora"][4].update(endpoint="one"),
            "which are on no common scale; let one score both",
        ),
        (lambda config: config["corpora"][0].update(endpoint=None), "nobody is to be asked; write one, or say where"),
        (lambda config: config["corpora"][0].update(prompt="meteor/answer"), "are prompts themselves; leave it out"),
        (lambda config: config["corpora"][0].update(fits={"model": "x", "tokens": 9}), "fits: 'x' is not there"),
        (lambda config: config["corpora"][3].update(endpoint=None, reward="x"), "model: 'x' is not there"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_runs(edit, sentence):
    from moult.base.errors import UserError
    from moult.config.load import load

    config = asking_config(("one", "two"))
    edit(config)
    with pytest.raises(UserError, match=re.escape(sentence)):
        load(json.loads(json.dumps(config)))


@pytest.mark.soak
def test_models_are_fused_by_a_reward_model(build_once):
    built = build_once("fused", write_fusing, None)
    results = built.path / "results" / "fused"
    page = (results / "report/index.html").read_text()
    assert "unexplained" not in page and "best source answers: one-scores" in page
    shares = [read_json(results / f"corpora/{name}.manifest.json")["facts"]["rows_in"] for name in ("best", "pairs")]
    assert sum(shares) == COUNT and min(shares) > 0
    for name in ("sft", "preferring"):
        assert read_json(results / f"adapters/{name}.manifest.json")["facts"]["steps"] == 4
    assert "Nothing to be done" in built.snakemake("-n").stdout
    config = built.config
    config["corpora"][0]["samples"] = 4
    built.config = config
    run = built.snakemake("results/fused/corpora/one-scores.jsonl")
    assert run.returncode == 0, run.stdout + run.stderr
    jobs = ("sample_responses/one-samples", "score_responses/one-scores")
    logs = [(built.path / f"logs/fused/{job}.log").read_text() for job in jobs]
    told = f"{4 * COUNT} requests, {3 * COUNT} of them answered before, {COUNT} to ask"
    assert told in logs[0] and re.search(r"requests, (4\d|3\d) of them answered before", logs[1])
