"""A dataset of prompts is planned, prepared and looked through for leakage like any other."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from moult.base.files import read_json
from moult.data.parquet import read_rows
from pico_build import Folder


def test_prompts_are_planned_and_prepared(tmp_path):
    asked = [{"prompt": f"Is {index} even?", "prompt_id": f"p{index}"} for index in range(20)]
    # Like another one, and the same but for its spelling.
    asked[7]["prompt"] = "Which of these rivers is the longest in the whole of Asia, and where does it end?"
    asked[8]["prompt"] = "Which of these rivers is the longest in the whole of Africa, and where does it end?"
    asked[9]["prompt"] = "is 10 even"
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*asked, asked[0]]))
    pq.write_table(pa.Table.from_pylist(asked[:2] + [{"prompt": "Why?", "prompt_id": "q"}]), tmp_path / "test.parquet")
    files = {"train": "train.jsonl", "test": "test.parquet"}
    config = {"name": "x", "datasets": [{"name": "asked", "format": "prompts", "files": files, "dev_fraction": 0}]}
    (tmp_path / "pico.yaml").write_text(yaml.safe_dump(config))
    folder = Folder(tmp_path, None)
    plan = folder.snakemake("-n", "datasets")
    assert plan.returncode == 0, plan.stdout + plan.stderr
    for rule in ("fetch_dataset", "prepare_dataset", "check_leakage"):
        assert f"{rule}: " in plan.stdout + plan.stderr
    run = folder.snakemake("datasets")
    assert run.returncode == 0, run.stdout + run.stderr
    made = tmp_path / "results" / "x"
    assert [len(read_rows(made / "datasets/asked", split)) for split in ("train", "test")] == [20, 3]
    manifest = read_json(made / "datasets/asked.manifest.json")
    assert manifest["recipe"]["format"] == "prompts" and manifest["facts"]["rejects"] == {"duplicate prompt": 1}
    table = (made / "leakage/asked.csv").read_text().splitlines()
    across, within = (
        [row for row in table[1:] if (row.split(",")[1] == row.split(",")[2]) == same] for same in (False, True)
    )
    assert sum(",exact," in row for row in across) == 2
    assert [row.split(",")[3:6] for row in within if ",near," in row] == [["asked:train:p7", "asked:train:p8", "near"]]
    assert [row.split(",")[3:6] for row in within if ",exact," in row] == [
        ["asked:train:p9", "asked:train:p10", "exact"]
    ]
    # All exports pass them over, as nothing was answered; asked for by name, one sentence says so.
    assert "export_dataset" not in folder.snakemake("-n", "exports").stdout
    run = folder.snakemake("results/x/exports/asked")
    assert "rows of format prompts have no answer to train on" in run.stdout + run.stderr
