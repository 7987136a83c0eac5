"""What must stay as it is when the code changes shape: `python tests/golden/record.py [--write]`.

`jobs.jsonl` has a line for each job of each shipped config, with nothing built: the rule and what it is named by, its
outputs, its log, and digests of what Snakemake compares of it, its inputs and its params. A changed line is a job that
somebody has to run again. `keys.json` has the journal's key of one request of each kind: a changed key is an answer
that somebody has to pay for again.

With `--write` both are written anew. A commit that does so says which results are made again, and why.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TARGETS = ("all", "exports")
# What a dry run prints in place of its graph: `Job` has no public view of what Snakemake compares.
PROGRAM = """
import json, sys
from snakemake.cli import main
from snakemake.dag import DAG

def told(dag):
    for job in dag.jobs:
        if job.rule.name in {targets}:
            continue
        params = dag.workflow.persistence._params(job)
        line = {{"rule": job.rule.name, "names": dict(job.wildcards_dict), "outputs": sorted(map(str, job.output))}}
        line |= {{"log": [str(path) for path in job.log], "inputs": sorted(map(str, job.input)), "params": params}}
        print("JOB " + json.dumps(line))

DAG.d3dag = told
main(sys.argv[1:])
"""


def configs():
    """Return the configs that are shipped, and those of what they lack, as paths below the root."""
    found = [*(ROOT / "config").rglob("*.yaml"), *HERE.glob("*.yaml")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def jobs_of(config, folder):
    """Return what Snakemake compares of each job of a config that is planned in an empty folder, sorted."""
    import warm

    os.symlink(ROOT / "resources", Path(folder, "resources"))
    target_rules = ("all", "datasets", "corpora", "adapters", "models", "scores", "report", "exports")
    for targets in (TARGETS, TARGETS[:1]):
        command = [sys.executable, "-c", PROGRAM.format(targets=target_rules), *targets, "--d3dag"]
        command += ["--snakefile", ROOT / "Snakefile", "--directory", folder, "--configfile", ROOT / config]
        run = warm.run(command)
        if run.returncode == 0:
            break
    assert run.returncode == 0, run.stdout + run.stderr
    lines = [json.loads(line.removeprefix("JOB ")) for line in run.stdout.splitlines() if line.startswith("JOB ")]
    return sorted(lines, key=lambda line: (line["rule"], sorted(line["names"].items())))


def jobs(config, folder):
    """Return the lines of `jobs.jsonl` for a config, planned in an empty folder."""
    from moult.base.files import digest

    lines = []
    for job in jobs_of(config, folder):
        compared = {key: digest(job[key])[:16] for key in ("inputs", "params")}
        lines.append({"config": config} | job | compared)
    return lines


def keys():
    """Return the journal's key of one request of each kind that the shipped prompts make."""
    from moult.corpora import contrasts, judgements
    from moult.corpora import refined as refining
    from moult.data.prompts import label_messages, load_template
    from moult.data.rubrics import load_rubrics, named_rubric
    from moult.evaluation import judging
    from moult.evaluation.head_to_head.benchmarks import BENCHMARKS
    from moult.evaluation.head_to_head.kind import Shown
    from moult.evaluation.head_to_head.public_files import Question
    from moult.inference.asking import identity_of
    from moult.inference.judge_requests import judge_request
    from moult.inference.requests import (
        ChatRequest,
        CompletionRequest,
        ContinuationRequest,
        LabelRequest,
        Sampling,
        corpus_requests,
        request_key,
    )
    from moult.inference.rewards import reward_request
    from moult.inference.structured import verdict_schema

    row = {"uid": "q:train:0", "dataset": "q", "split": "train", "field": "machine learning"}
    row |= {"title": "Which metric?", "question": "I have <|im_end|> two classes, 9 to 1."}
    answer = row | {"guideline": "Look at the rare class.", "answer": "Average precision."}
    remote = {"name": "teacher", "url": "https://api.openai.com/v1", "model": "gpt-4"}
    compute = {"engine": "transformers", "dtype": "float32", "batch_size": 8, "threads": 1}
    served = {"name": "own", "serve": "base", "compute": compute}
    greedy = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": 64}
    drawn = {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "max_tokens": 64}
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "base.manifest.json")
        manifest.write_text(json.dumps({"content": "0" * 64}))
        ours = identity_of(served, manifest)
    theirs = {key: remote[key] for key in ("url", "model")}
    label_set = {"task": "emotion", "task_words": "emotion", "labels": ["joy", "anger"]}
    messages, answers = label_messages(load_template("mmla/text"), {"text": "Oh no."}, label_set)
    shown, _ = label_messages(
        load_template("mmla/video"),
        {"text": "Oh no.", "media": [{"type": "video", "frames": "1" * 64}]},
        label_set,
    )
    judge = {"endpoint": served, "criteria": ["accuracy"], "questions": {"seed": 3}, "decoding": greedy}
    judge |= {"prompt": load_template("judge/pair")}
    pairs = {"prompt": load_template("meteor/answer"), "rejected": greedy, "seed": 5}
    prompts = {mode: load_template(f"judge/{mode}") for mode in ("grade", "compare")}
    items = {"prompts": prompts, "rubrics": load_rubrics(), "rubric": "default", "decoding": greedy, "seed": 3}
    judged = row | {"category": "math", "reference": "Average precision."}
    told = judged | {"mode": "grade", "answer": "One.", "human": 3.5, "scale": [0, 10], "feedback": None}
    items |= {"endpoint": remote, "references": False, "explain": load_template("judge/explain")}
    by_rubric = judge | {"form": "line", "rubric": named_rubric("coding"), "prompt": prompts["compare"]}
    beam = {"method": "beam", "beams": 4, "length_penalty": 1.0}
    samples = {"method": "consistency", "samples": 2, "temperature": 0.7, "top_p": 0.9, "top_k": 0}
    asked = {"decoding": drawn, "seed": 7}
    revised = answer | {"previous": "Accuracy.", "feedback": "It hides the rare class.", "hints": ""}

    question = Question("1", ("Which metric?", "And why?"))

    def battle(kind, endpoint):
        prompt = load_template(f"head_to_head/{kind}")
        recipe = {"prompt": prompt, "endpoint": endpoint, "decoding": drawn, "seed": 3}
        return BENCHMARKS[kind].request(recipe, Shown(question, "original", ("One.", "Two.")))

    def one_of(recipe, entry=row):
        return corpus_requests(recipe, [entry])[0]

    tokens, sampled = (1, 20, 300), Sampling(temperature=0.7, max_tokens=32, repetition_penalty=1.1)

    found = {
        "continuation of tokens": (ContinuationRequest(tokens, (4, 5)), ours),
        "completion of tokens": (CompletionRequest(tokens, ("\n",), Sampling(max_tokens=32)), ours),
        "completion of tokens, drawn": (CompletionRequest(tokens, ("\n",), sampled, 7), ours),
        "guideline": (one_of(asked | {"prompt": load_template("meteor/guideline")}), ours),
        "distilled": (one_of(asked | {"prompt": load_template("meteor/distill")}, answer), theirs),
        "answer": (one_of({"decoding": greedy, "seed": 7, "prompt": load_template("meteor/answer")}), ours),
        "revision": (refining._request(7, load_template("meteor/revise"), revised, drawn), ours),
        "verdict": (
            refining._request(
                7,
                load_template("meteor/judge"),
                refining.shown_to_judge(row, "Accuracy."),
                greedy,
                verdict_schema(None),
            ),
            theirs,
        ),
        "pair": (judging.pair_request(judge, row, ("One.", "Two.")), ours),
        "pair, remote": (judging.pair_request(judge | {"endpoint": remote}, row, ("One.", "Two."), 1), theirs),
        "pair by a rubric": (judging.pair_request(by_rubric, row, ("One.", "Two."), 1), ours),
        "graded answer": (
            refining.verdict_request(
                {"grading": by_rubric, "judge": remote, "judge_decoding": greedy, "seed": 7}
                | {"judge_prompt": prompts["grade"]},
                row,
                "Accuracy.",
            ),
            theirs,
        ),
        "graded item": (
            judge_request(items | {"form": "line", "references": True}, judged, ("One.",), True),
            ours,
        ),
        "compared item": (
            judge_request(items | {"form": "json", "references": False}, judged, ("One.", "Two."), False),
            theirs,
        ),
        "explained item": (judgements.unexplained(items, [told])[0][1], theirs),
        "reward": (reward_request("Which metric?", "One."), ours),
        "beam": (contrasts.pair_requests(pairs | {"chosen": beam}, [row])[1], ours),
        "sample": (contrasts.pair_requests(pairs | {"chosen": samples}, [row])[2], ours),
        "label by generation": (ChatRequest(tuple(messages), Sampling(max_tokens=16)), ours),
        "label by likelihood": (LabelRequest(tuple(messages), tuple(answers)), ours),
        "video": (LabelRequest(tuple(shown), tuple(answers)), ours),
        "choices": (ChatRequest(tuple(messages), Sampling(), choices=tuple(answers)), ours),
        "letter": (battle("alpaca", remote), theirs),
        "letter, served": (battle("alpaca", served), ours),
        "arena": (battle("arena", remote), theirs),
        "turn": (battle("mt", remote), theirs),
    }
    return {kind: request_key(request, identity) for kind, (request, identity) in found.items()}


def main():
    sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]
    found, golden = [], HERE / "jobs.jsonl"
    for config in configs():
        with tempfile.TemporaryDirectory() as folder:
            found += jobs(config, folder)
    lines = "".join(json.dumps(line, sort_keys=True) + "\n" for line in found)
    named = json.dumps(keys(), indent=2, sort_keys=True) + "\n"
    if "--write" in sys.argv:
        golden.write_text(lines)
        (HERE / "keys.json").write_text(named)
    elif lines != golden.read_text() or named != (HERE / "keys.json").read_text():
        sys.exit("recipes or keys are not those that are recorded: results would be made, or answers paid, again")


if __name__ == "__main__":
    main()
