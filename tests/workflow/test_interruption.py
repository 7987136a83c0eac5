"""Kill -9 at a bad moment: the next run continues, and pays for no answer twice."""

import json

import pytest
from processes import kill_group, kill_scheduler, wait_for


@pytest.mark.parametrize("kill", [kill_group, pytest.param(kill_scheduler, marks=pytest.mark.soak)])
def test_training_continues_from_its_checkpoint(copied, kill):
    config = copied.config
    config["models"][2]["finetune"] |= {"max_steps": 300, "evaluate_every": 20}
    copied.config = config
    target = "results/pico/adapters/moods_sft"
    process = copied.start(target)
    scratch = copied.path / "scratch" / "finetune_lora" / "moods_sft"
    wait_for(lambda: any(scratch.rglob("whole.json")))
    assert process.poll() is None, "it ended before it could be killed"
    kill(process)
    assert not (copied.path / target / "adapter_model.safetensors").exists()
    run = copied.snakemake(target)
    assert run.returncode == 0, run.stdout + run.stderr
    log = (copied.path / "logs/pico/finetune_lora/moods_sft.log").read_text()
    assert "resum" in log.lower()
    assert not any(scratch.rglob("checkpoint-*"))


def test_distillation_pays_for_no_answer_twice(copied):
    rows = [f"Question {i}?\tBody of question number {i}." for i in range(40)]
    (copied.path / "data" / "ml.tsv").write_text("\n".join(["title\tquestion_content", *rows]) + "\n")
    asked, server = [], copied.server
    server.delay = 0.1
    before = len(server.asked)
    try:
        process = copied.start("results/pico/corpora/guidelines.jsonl")
        wait_for(lambda: len(server.asked) - before >= 15)
        kill_group(process)
        run = copied.snakemake("results/pico/corpora/guidelines.jsonl")
    finally:
        server.delay = 0.0
    assert run.returncode == 0, run.stdout + run.stderr
    asked = [str(body["messages"]) for body in server.asked[before:]]
    # Rows answered before were not asked; of those in flight when it was killed, at most `concurrency` are asked again.
    assert len(set(asked)) == 40
    assert len(asked) - 40 <= 2


def test_a_second_scheduler_is_refused_while_the_first_is_at_work(copied):
    config = copied.config
    config["models"][2]["finetune"] |= {"max_steps": 100_000, "evaluate_every": 20}
    copied.config = config
    target = "results/pico/adapters/moods_sft"
    first = copied.start(target)
    wait_for(lambda: any((copied.path / "scratch").rglob("whole.json")))
    second = copied.snakemake(target)
    try:
        assert second.returncode != 0 and "cannot be locked" in second.stdout + second.stderr
        assert first.poll() is None
    finally:
        kill_group(first)


def test_judging_pays_for_no_judgement_twice(copied):
    rows = [f"Question {i}?\tBody of question number {i}." for i in range(30)]
    (copied.path / "data" / "ml.tsv").write_text("\n".join(["title\tquestion_content", *rows]) + "\n")
    corpora = [f"results/pico/corpora/{name}.jsonl" for name in ("plain", "distilled")]
    run = copied.snakemake(*corpora)
    assert run.returncode == 0, run.stdout + run.stderr
    target, server = "results/pico/judgements/data/distilled.jsonl", copied.server
    server.delay, before = 0.1, len(server.asked)
    try:
        process = copied.start(target)
        wait_for(lambda: len(server.asked) - before >= 15)
        kill_group(process)
        assert not (copied.path / target).exists()
        run = copied.snakemake(target)
    finally:
        server.delay = 0.0
    assert run.returncode == 0, run.stdout + run.stderr
    asked = [str(body) for body in server.asked[before:]]
    said = [json.loads(line) for line in (copied.path / target).read_text().splitlines()]
    assert {row["status"] for row in said} == {"ok"} and len(set(asked)) > 40
    # Of those in flight when it was killed, at most `concurrency` are asked again.
    assert len(asked) - len(set(asked)) <= 2
