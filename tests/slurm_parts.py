"""Experiments that run on a real Slurm, which together run every rule: what each is of, and where its models belong."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmark_runs import Benchmarks, write_benchmarks
from clips import light_pictures, write_clip
from contests import judged as contested
from contests import write_contest
from hub_server import PublishingHub
from judges import EXPLAINED, explaining, honest, judged_config, pairs, write_judged
from moult.config.load import load
from moult.stages import STAGES
from openai_server import answer_in_form
from pico import build_pico_model
from pico_build import ROOT, write_config, write_inputs
from pico_variants import VIDEO_HUB, passing_config, rounds_config, video_config, write_preferences, write_swept
from probes import probing_config, write_probed
from slurm_cluster import ClusterFolder

# Per model: GPUs, memory of each, and where that is in profiles/slurm/partitions.yaml. Other models ask for none.
SMALL, LARGE = (1, 16, "gpu-24gb", "rtx_4090"), (1, 40, "gpu-80gb", "a800")
PAIR, FULL = (2, 90, "gpu-96gb", "rtx_pro_6000"), (2, 70, "gpu-80gb", "a800")
PLACES = {"base": SMALL, "advisor": LARGE, "moods_sft": PAIR, "moods_again": PAIR, "moods_full": FULL}
NOWHERE = (0, None, "cpu", None)
# What no whole build makes: by which target it is asked for.
ASKED_FOR = {"exports": "exports", "published": "publish"}
TOKEN = "hf_canary_0123456789"


class FromHub(Benchmarks, ClusterFolder):
    """A folder whose jobs find the hub in it."""


class Publishing(ClusterFolder):
    """A folder whose jobs find a hub that takes models, and have a token for it; `repos` is what is there."""

    def __init__(self, path, server):
        super().__init__(path, server)
        self.repos, self.hub = {}, None

    def snakemake(self, *arguments):
        with PublishingHub({TOKEN: {"me"}}) as self.hub:
            self.hub.repos = self.repos
            return super().snakemake(*arguments, "--config", "push=true")

    def environment(self):
        return super().environment() | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": self.hub.url, "MY_TOKEN": TOKEN}


@dataclass
class Part:
    """What is built in one go.

    write: writes the inputs into a folder. change: makes the part's config of the one that was written. places: model →
    where its jobs belong. reply: what the endpoints say. kind: of the working directory. targets: what is asked for.
    """

    write: Callable
    change: Callable = lambda config: config
    places: dict = field(default_factory=lambda: PLACES)
    reply: Callable = answer_in_form
    kind: type = ClusterFolder
    targets: tuple = ("all",)

    def folder(self, path, server):
        """Write what is built into an empty folder, models that ask for GPUs as if they were large; return it."""
        self.write(path)
        folder = self.kind(path, server)
        config = self.change(folder.config)
        for model in config.get("models", []):
            gpus, memory, _, _ = self.places.get(model["name"], NOWHERE)
            if gpus:
                model["needs"] = {"gpus": gpus, "gpu_mem_gb": memory}
            if model["name"] == "moods_full":
                model["finetune"]["devices"] = gpus
        folder.config = config
        return folder

    def rules(self, config):
        """Return the rules of all jobs of a whole build in the working directory, and of what else is asked for."""
        cfg = load(config)
        found = {stage.rule for stage in STAGES if stage.makes not in ASKED_FOR and stage.planned(cfg)}
        asked = [stage for stage in STAGES if ASKED_FOR.get(stage.makes) in self.targets]
        return found | {stage.rule for stage in asked if stage.names(cfg)}

    def place_of(self, config):
        """Return a function that returns where a job belongs, by its rule and the name of its log."""
        return lambda rule, name: self.places.get(model_at_work(config, rule, name), NOWHERE)


def model_at_work(config, rule, name):
    """Return the model that a job loads by what its rule does, None if it loads none; `name` is that of its log."""
    first, last = name.partition("/")[0], name.rpartition("/")[2]

    def find(kind, name):
        return next(one for one in config[kind] if one["name"] == name)

    def answers(endpoint):
        """Return the model behind an endpoint, or behind a judge, which may be a model itself."""
        served = {one["name"]: one.get("serve") for one in config["endpoints"]}
        return served.get(endpoint, endpoint)

    if rule in ("predict_labels", "answer_questions", "answer_turns", "run_lm_eval", "encode_probes", "run_probes"):
        return last
    if rule in ("finetune_lora", "finetune_full", "optimise_lora", "optimise_full"):
        return last
    if rule == "refine_answers":
        # A model of rounds: the first is the one that they begin with.
        before, number = last.rsplit("-r", 1)
        return next(one["base"] for one in config["rounds"] if one["name"] == before) if number == "1" else None
    if rule in ("generate_guidelines", "distill_answers", "contrast_answers", "sample_responses", "score_responses"):
        return answers(find("corpora", name)["endpoint"])
    if rule in ("judge_again", "judge_items"):
        return answers(last)
    if rule == "judge_battles":
        return answers(find("suites", first)["head_to_head"]["endpoint"])
    if rule == "judge_answers":
        judge = find("suites", first)["judge"]
        return answers(judge.get("endpoint") or judge["judges"][0])
    if rule == "select_model":
        return name if "race" in find("models", name)["select"] else None
    return None


def small(config):
    """Return little of a config: two trainings to run side by side, one prediction, and groups before and after."""
    config["datasets"], config["corpora"], config["endpoints"] = config["datasets"][1:], [], []
    base, tuned = (model for model in config["models"] if model["name"] in ("base", "moods_sft"))
    tuned["finetune"] |= {"max_steps": 1, "evaluate_every": 1, "selection": "nll"}
    config["models"] = [base, tuned, tuned | {"name": "moods_again"}]
    config["suites"] = config["suites"][:1]
    config["evaluations"] = [{"suite": "labels", "models": ["base"]}]
    return config


def whole(config):
    """Return a config as it is, with a further judge of corpora, which is a model of the build and also judges two
    models head to head."""
    judge = config["suites"][2]["judge"]
    judge["judges"] = [judge.pop("endpoint"), "student"]
    judge["decoding"] = {"max_tokens": 1000}
    questions = str(ROOT / "resources/demo/head_to_head/alpaca.json")
    heads = {"kind": "alpaca", "questions": questions, "endpoint": "student", "decoding": {"max_tokens": 8}}
    config["suites"].append({"name": "heads", "head_to_head": heads})
    config["evaluations"].append({"suite": "heads", "models": ["base", "advisor"]})
    return config


def samples(config):
    """Return a config of three corpora: answers, their scores, and pairs of them."""
    config["corpora"] = [
        {"name": "said", "kind": "samples", "dataset": "questions", "endpoint": "student", "samples": 3}
        | {"decoding": {"temperature": 1.0, "max_tokens": 8}},
        {"name": "graded", "kind": "scored", "corpus": "said", "endpoint": "teacher"},
        {"name": "paired", "kind": "preferences", "target": "graded", "pairing": "best_worst", "truncated": "keep"},
    ]
    config["models"], config["suites"], config["evaluations"] = config["models"][:1], [], []
    return config


def write_training(folder):
    """Write what models optimised on their own pairs need, and two rounds of self-training beside them."""
    write_preferences(folder)
    lines = [f"How to do {number}?\tI try {number}." for number in range(2)]
    (folder / "data" / "q.tsv").write_text("\n".join(["title\tquestion_content", *lines]) + "\n")


def training(config):
    rounds = rounds_config(2, 1)
    rounds["datasets"][0]["files"] = {"train": "data/q.tsv"}
    joined = {kind: config[kind] + rounds[kind] for kind in ("datasets", "endpoints")}
    return config | {"rounds": rounds["rounds"]} | joined


def write_judging(folder):
    """Write judges of items, and verdicts that an endpoint explains."""
    config = judged_config()
    config["suites"], config["evaluations"] = config["suites"][:2], config["evaluations"][:2]
    config["datasets"] += [EXPLAINED["datasets"][0] | {"name": "verdicts", "files": {"train": "verdicts.json"}}]
    config["corpora"] = [EXPLAINED["corpora"][0] | {"dataset": "verdicts"}]
    build_pico_model(folder / "models" / "base", max_position_embeddings=8192)
    write_judged(folder, config)
    (folder / "verdicts.json").write_text(json.dumps(pairs(6)))


def judging(body):
    """Explain what people said where they said something, else judge."""
    return explaining(body) if "People say" in body["messages"][-1]["content"] else honest(body)


def contest(config):
    """Return a config of contests by an endpoint, on answers of others, and by a model of the build."""
    for kind, name in (("suites", "name"), ("evaluations", "suite")):
        config[kind] = [one for one in config[kind] if one[name] in ("letters", "served")]
    return config


def write_probing(folder):
    config = probing_config(seeds=[0], portions=[1], probes=["linear"], code_length=False)
    config["models"].pop()
    config["evaluations"][0]["models"].pop()
    write_probed(folder, config)


def swept(config):
    """Return a config of a sweep of two merges."""
    grid = next(model for model in config["models"] if model["name"] == "grid")
    grid["sweep"] |= {"methods": ["ties", "dare_ties"], "weights": [0.5]}
    return config


def published(config):
    """Return a config in which what passes is published first."""
    config["models"][2] |= {"publish": {"hub": "me/merged", "token": "MY_TOKEN"}, "license": "CC0-1.0"}
    return config


def write_filming(folder):
    """Write clips into the hub of the folder, and rows about them."""
    (folder / "data").mkdir()
    clips = folder / "hub" / "D" / "video"
    clips.mkdir(parents=True)
    for split, numbers in {"train": range(4), "test": range(4, 6)}.items():
        lines = [f"{number}\tLook.\t{('red', 'green')[number % 2]}\tlamps_{number}.mp4" for number in numbers]
        (folder / "data" / f"{split}.tsv").write_text("\n".join(["id\ttext\tlabel\tvideo", *lines]) + "\n")
        for number in numbers:
            pictures = light_pictures(("red", "green")[number % 2], "steady", seed=number)
            write_clip(clips / f"lamps_{number}.mp4", pictures)
    write_config(folder / "pico.yaml", video_config(VIDEO_HUB) | {"models": [], "suites": [], "evaluations": []})


def write_passing(folder):
    write_inputs(folder)
    write_config(folder / "pico.yaml", passing_config())


PLOTS = [f"results/pico/plots/{name}.svg" for name in ("labels", "confusion/labels/base")]
PARTS = {
    "small": Part(write_inputs, small, targets=("adapters", *PLOTS)),
    "whole": Part(write_inputs, whole),
    "samples": Part(write_inputs, samples, targets=("all", "exports")),
    "training": Part(write_training, training, PLACES | {"preferring": LARGE, "further": PAIR}),
    "judging": Part(write_judging, reply=judging),
    "contest": Part(write_contest, contest, PLACES | {"other": LARGE}, contested),
    "benchmarks": Part(write_benchmarks, places={"taught": SMALL}, kind=FromHub),
    "probing": Part(write_probing),
    "sweep": Part(write_swept, swept, {"left": SMALL, "raced": LARGE}),
    "passing": Part(write_passing, published, kind=Publishing, targets=("all", "publish")),
    "filming": Part(write_filming, kind=FromHub),
}
