"""The smallest card that holds a job, the partition that the executor plugin itself would take, and clear refusals."""

import re

import pytest
import yaml
from moult.base.errors import UserError
from moult.base.paths import ROOT
from moult.base.stage import none
from moult.config.load import load
from moult.planning.needs import needs
from moult.planning.partitions import SHIPPED, Site, as_resources, jobs_with_models, main, needs_table
from moult.stages import STAGES


@pytest.fixture(scope="module")
def site():
    return Site(SHIPPED)


MEAN = {"method": "linear", "parents": [{"model": "tuned", "weight": 1}, {"model": "whole", "weight": 1}]}
# What was trained in the five systems, on the shipped hardware: 768 to 2048 tokens, the published batches and devices.
PUBLISHED = [
    ("METEOR: 8 B, all weights", ("full", 8), {"devices": 4, "tokens": 512}, ("a800", 4, "gpu-80gb")),
    ("METEOR: guidelines by 8 B", ("inference", 8), {"rows": 4, "tokens": 512}, ("rtx_4090", 1, "gpu-24gb")),
    ("MMLA text: 1.5 B", ("lora", 1.5), {"tokens": 768, "rows": 2}, ("rtx_4090", 1, "gpu-24gb")),
    ("MMLA text: 8 B", ("lora", 8), {"tokens": 768, "rows": 2}, ("a800", 1, "gpu-80gb")),
    ("MMLA text: 8 B, checkpointing", ("lora", 8), {"tokens": 768, "checkpointing": True}, ("rtx_4090", 1, "gpu-24gb")),
    (
        "MMLA video: 8.3 B",
        ("lora", 8.3),
        {"tokens": 1024, "rows": 8, "checkpointing": True},
        ("a800", 1, "gpu-80gb"),
    ),
    (
        "MMLA video: 72 B",
        ("lora", 72),
        {"tokens": 1024, "rows": 4, "devices": 8, "zero": 3, "checkpointing": True, "override": {"mem_gb": 600}},
        ("a800", 8, "gpu-80gb"),
    ),
    (
        "MELD judge: 8 B",
        ("lora", 8),
        {"tokens": 2048, "rows": 2, "devices": 4, "rank": 8, "checkpointing": True},
        ("a800", 4, "gpu-80gb"),
    ),
    (
        "WRPO: 8 B, all weights",
        ("full", 8),
        {"tokens": 2048, "rows": 2, "devices": 8, "zero": 3, "checkpointing": True},
        ("a800", 8, "gpu-80gb"),
    ),
    ("Merging: three of 7 B", ("weights", 7), {"models": 3}, (None, 0, "cpu")),
]


@pytest.mark.parametrize(
    ("stage", "settings", "expected"), [row[1:] for row in PUBLISHED], ids=[r[0] for r in PUBLISHED]
)
def test_the_published_trainings_find_their_place(site, stage, settings, expected):
    asked, partition = site.place(needs(*stage, **settings), "it")
    assert (asked["gpu_model"], asked["gpu"], partition) == expected
    assert asked["gpu_model"] is None or site.cards[asked["gpu_model"]] >= asked["gpu_mem_gb"]


def test_what_fits_nowhere_is_refused_with_what_to_do(site):
    with pytest.raises(UserError, match=r"full of big needs 1 GPU of \d+ GB, .*: no partition of .* has that\. Spread"):
        site.place(needs("full", 72), "full of big")
    with pytest.raises(UserError, match="Name a larger partition"):
        site.place(needs("weights", 200, models=4), "merge")
    with pytest.raises(UserError, match="gpu_model 'a80' is not a card of .*; did you mean 'a800'"):
        site.place(needs("lora", 8, override={"gpu_model": "a80"}), "lora")


def test_time_is_cut_to_the_partition_s(site):
    asked, _ = site.place(needs("lora", 72, override={"gpus": 1, "gpu_mem_gb": 90, "mem_gb": 400}), "it")
    assert asked["runtime"] == 3 * 24 * 60


def test_a_retry_gets_more_until_there_is_no_more(site):
    cards, memory = [], []
    for attempt in (1, 2, 3):
        asked, _ = site.place(
            needs("lora", 1.5, attempt=attempt, override={"gpu_mem_gb": 70, "mem_gb": 300}), "it", attempt
        )
        cards.append(asked["gpu_model"])
        memory.append(asked["mem_mb"])
    # 70, 105 and 158 GB: the largest card is tried where none is large enough.
    assert cards == ["a800", "rtx_pro_6000", "rtx_pro_6000"] and memory == [300000, 450000, 512000]


def test_nodes_bring_tasks(site):
    asked, partition = site.place(needs("full", 8, devices=16, zero=3, override={"nodes": 2}), "it")
    assert (asked["gpu"], partition) == (16, "gpu-80gb")
    resources = as_resources(asked)
    assert (resources["nodes"], resources["tasks_per_node"], resources["cpus_per_task"]) == (2, 8, 4)
    assert resources["slurm_extra"] == "--gpus-per-node=a800:8"
    with pytest.raises(UserError, match="5 GPUs, which 2 nodes cannot share evenly"):
        site.place(needs("full", 8, devices=5, zero=3, override={"nodes": 2}), "it")
    with pytest.raises(UserError, match="over 2 nodes: each needs two of `finetune.devices`"):
        site.place(needs("full", 8, devices=2, zero=3, override={"nodes": 2}), "it")
    with pytest.raises(UserError, match="on each of 3 nodes"):
        site.place(needs("full", 8, devices=12, zero=3, override={"nodes": 3, "gpu_mem_gb": 80}), "it")


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        ({"partitions": {"gpu": {"max_gpus": 4}}}, "unexpected keyword argument 'max_gpus'"),
        (
            {"partitions": {"gpu": {"max_gpu": 4, "available_gpu_models": ["a100"]}}},
            "a100 is a GPU model of a partition",
        ),
        ({"cards": {}}, "missing 'partitions'"),
    ],
)
def test_a_wrong_site_file_is_one_sentence(tmp_path, edit, sentence):
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump({"cards": {"a800": 80}} | edit))
    with pytest.raises(UserError, match=sentence) as raised:
        Site(path)
    assert str(path) in str(raised.value)


def test_without_cards_numbers_decide(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump({"partitions": {"cpu": {"max_runtime": "1d"}, "gpu": {"max_gpu": 4}}}))
    asked, partition = Site(path).place(needs("lora", 8), "it")
    assert (asked["gpu_model"], partition) == (None, "gpu")


def test_the_table_has_every_job_that_loads_a_model(site, capsys):
    cfg = load(
        {
            "name": "x",
            "compute": {"dtype": "bfloat16"},
            "models": [
                {"name": "base", "fetch": {"path": "b"}, "parameters": 8},
                {"name": "tuned", "finetune": {"base": "base", "data": ["rows"]}},
                {
                    "name": "whole",
                    "finetune": {
                        "base": "base",
                        "data": ["rows"],
                        "method": "full",
                        "devices": 8,
                        "zero": 3,
                        "gradient_checkpointing": True,
                    },
                },
                {"name": "huge", "finetune": {"base": "base", "data": ["rows"], "method": "full"}},
                {"name": "merged", "merge": MEAN},
            ],
            "datasets": [
                {
                    "name": "rows",
                    "format": "mmla",
                    "files": {"train": "x.tsv", "test": "y.tsv"},
                    "labels": ["a", "b"],
                    "task": "t",
                }
            ],
            "suites": [{"name": "labels", "labels": {"datasets": ["rows"]}}],
            "evaluations": [{"suite": "labels", "models": ["tuned", "merged"]}],
        }
    )
    lines = {(line[0], line[2]): line for line in needs_table(cfg, site)}
    assert len(list(jobs_with_models(cfg))) == 8
    assert lines["predict_labels", "labels/tuned, …"][1] == "2"
    assert lines["finetune_full", "whole"][-1] == "gpu-80gb"
    assert lines["finetune_full", "huge"][-1].startswith("nowhere")
    main([SHIPPED.parents[2] / "config" / "config.yaml"])
    assert "predict_labels" in capsys.readouterr().out


def everything():
    """A config with every kind of model, corpus and suite, and rounds; all answers by a model of its own."""
    files = {"train": "x.tsv", "test": "y.tsv", "dev": "z.tsv"}
    trained = {"base": "base", "data": ["rows"]}
    preferring = {"base": "base", "data": ["pairs"], "loss": {"kind": "dpo"}, "learning_rate": 1e-5}
    answers = {"dataset": "asked", "endpoint": "student"}
    return {
        "name": "x",
        "compute": {"dtype": "bfloat16"},
        "datasets": [
            {"name": "rows", "format": "mmla", "files": files, "labels": ["a", "b"], "task": "t"},
            {"name": "asked", "format": "stackoverflow", "files": files},
            {"name": "judged", "format": "judge", "files": {"train": "x.json", "test": "y.json"}},
        ],
        "endpoints": [{"name": "student", "serve": "base"}, {"name": "other", "serve": "tuned"}],
        "corpora": [
            {"name": "words", "kind": "guidelines", **answers},
            {"name": "distilled", "kind": "distilled", **answers},
            {"name": "pairs", "kind": "contrasts", **answers},
            {"name": "said", "kind": "judgements", "dataset": "judged", "endpoint": "student"},
            {"name": "samples", "kind": "samples", **answers},
            {"name": "scores", "kind": "scored", "corpus": "samples", "reward": "base"},
            {"name": "paired", "kind": "preferences", "sources": ["scores"], "pairing": "best_worst"},
        ],
        "models": [
            {"name": "base", "fetch": {"path": "b"}, "parameters": 8},
            {"name": "tuned", "finetune": trained},
            {"name": "whole", "finetune": trained | {"method": "full"}},
            {"name": "preferring", "optimise": preferring},
            {"name": "preferring_whole", "optimise": preferring | {"method": "full"}},
            {"name": "merged", "merge": MEAN},
            {"name": "brief", "keep": False, "finetune": trained},
            {"name": "brief_mean", "keep": False, "merge": MEAN},
            {"name": "grid", "sweep": {"methods": ["linear"], "parents": ["base", "tuned"], "weights": [1, 2]}},
            {"name": "best", "select": {"among": ["grid"], "suite": "dev", "race": {}}},
        ],
        "rounds": [
            {
                "name": "own",
                "base": "base",
                "dataset": "asked",
                "rows": 4,
                "interval": 2,
                "judge": "student",
                "finetune": {},
            }
        ],
        "suites": [
            {"name": "labels", "labels": {"datasets": ["rows"]}},
            {"name": "dev", "labels": {"datasets": ["rows"], "split": "dev"}},
            {"name": "quality", "judge": {"datasets": ["asked"], "judges": ["student", "other"]}},
            {"name": "people", "agreement": {"datasets": ["judged"]}},
            {"name": "heads", "head_to_head": {"kind": "mt", "questions": "q.jsonl", "endpoint": "student"}},
            {"name": "academic", "lm_eval": {"tasks": ["kinds"]}},
            {"name": "probes", "probing": {"folders": ["p"]}},
        ],
        "evaluations": [
            {"suite": "people", "judges": [{"name": "tuned", "model": "tuned"}]},
            {"suite": "labels", "models": ["tuned", "brief", "brief_mean"]},
            {"suite": "heads", "models": ["tuned"]},
            {"suite": "academic", "models": ["tuned"]},
            {"suite": "probes", "models": ["tuned"]},
            {"suite": "quality", "models": ["base", "tuned"], "against": "base"},
        ],
    }


def environment_of(rule):
    """Return the conda environment of a rule, by the rule that it inherits from."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    base = re.search(rf"^use rule (\w+) as {rule} with:$", text, re.MULTILINE)[1]
    return re.search(rf"^rule {base}:\n.*?envs/(\w+)\.yaml", text, re.MULTILINE | re.DOTALL)[1]


def test_every_rule_that_works_with_a_model_has_its_needs_and_its_line():
    with_models = {stage.rule for stage in STAGES if environment_of(stage.rule) == "models"}
    assert {stage.rule for stage in STAGES if stage.model is not none} == with_models
    assert {stage.rule for stage, _ in jobs_with_models(load(everything()))} == with_models


def test_what_is_small_and_one_of_many_is_grouped_on_slurm_and_nothing_else():
    groups = yaml.safe_load((SHIPPED.parent / "profile.yaml").read_text())["groups"]
    small = {stage.rule for stage in STAGES if stage.wildcards and environment_of(stage.rule) == "tables"}
    assert set(groups) == small - {"fetch_videos", "publish_model"}
