"""A change remakes what depends on it and nothing else; nothing is paid for twice."""

import shutil


def test_one_edited_question_is_one_new_call_of_each_kind(copied):
    path = copied.path / "data" / "ml.tsv"
    path.write_text(path.read_text().replace("I am scaling features and stuck.", "I scale features and I am stuck."))
    jobs = copied.planned()
    assert {"adapters/advisor", "models/merged", "scores/labels/merged.csv"} <= jobs
    assert not {"adapters/moods_sft", "models/moods_sft", "datasets/moods", "models/base"} & jobs
    before = len(copied.server.asked)
    run = copied.snakemake("results/pico/corpora/distilled.jsonl")
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(copied.server.asked) - before == 2
    assert "I scale features" in (copied.path / "results/pico/corpora/distilled.jsonl").read_text()


def test_reordered_rows_ask_nothing(copied):
    path = copied.path / "data" / "ml.tsv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *rows[::-1]]) + "\n")
    before = len(copied.server.asked)
    run = copied.snakemake("corpora")
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(copied.server.asked) == before
    log = (copied.path / "logs/pico/generate_guidelines/own_words.log").read_text()
    assert "4 of them answered before, 0 to ask" in log


def test_a_rank_retrains_its_adapter_and_what_follows(copied):
    config = copied.config
    config["models"][2]["finetune"]["lora"]["rank"] = 4
    copied.config = config
    assert copied.planned() == {
        "adapters/moods_sft",
        "models/moods_sft",
        "models/merged",
        "predictions/labels/merged.jsonl",
        "scores/labels/merged.csv",
        "scores/summary.csv",
        "scores/differences.csv",
        "plots/confusion/labels/merged.svg",
        "plots/data.svg",
        "plots/labels.svg",
        "plots/quality.svg",
        "report/index.html",
    }


def test_a_new_price_asks_nobody(copied):
    config = copied.config
    config["endpoints"][1]["price"] = {"input": 5, "output": 5}
    copied.config = config
    before = len(copied.server.asked)
    run = copied.snakemake("results/pico/corpora/distilled.jsonl")
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(copied.server.asked) == before


def test_touched_data_rerun_nothing(copied):
    (copied.path / "data" / "ml.tsv").touch()
    # The folder has another time, too.
    (copied.path / "models" / "base" / ".DS_Store").touch()
    assert "Nothing to be done" in copied.snakemake("--dry-run").stdout


def test_a_deleted_model_is_rebuilt_when_somebody_needs_it(copied):
    results = copied.path / "results" / "pico"
    shutil.rmtree(results / "models" / "moods_sft")
    assert copied.planned("results/pico/models/moods_sft") == {"models/moods_sft"}
    run = copied.snakemake("results/pico/models/moods_sft")
    assert run.returncode == 0, run.stdout + run.stderr
    # Rebuilt to the same bytes, so that what was made of it stays.
    assert copied.planned() == set()


def test_a_cut_file_is_told_by_name_and_made_again(copied):
    weights = copied.path / "results" / "pico" / "models" / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    run = copied.snakemake("--", "results/pico/models/base")
    assert run.returncode == 0
    assert "model.safetensors: has 1000 bytes" in run.stdout + run.stderr
    assert weights.stat().st_size > 1000
