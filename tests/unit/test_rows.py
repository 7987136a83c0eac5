"""What is written has the keys that the types of rows declare, in their order."""

from dataclasses import fields

import pyarrow.parquet as pq
from moult.base import rows, suite_rows
from moult.base.files import read_json
from moult.base.rows import columns_of
from moult.data.parquet import write_parquet
from moult.evaluation.judging import judgement
from moult.evaluation.published import SOURCES
from moult.evaluation.scores import COLUMNS, DIFFERENCES
from moult.inference.requests import Answer
from moult.jobs.manifest import write_manifest


def test_every_source_of_published_values_has_its_two_columns_of_scores():
    assert COLUMNS[-1] == "limit"
    assert COLUMNS[10:-1] == [name for source in SOURCES for name in (source, f"{source}_delta")]


def test_tables_keep_their_columns():
    """A table of an older build is read beside those of today."""
    assert COLUMNS[:10] == "model suite dataset task method metric value n ci_low ci_high".split()
    assert list(DIFFERENCES) == "suite model against dataset method difference ci_low ci_high p_mcnemar n".split()
    assert columns_of(rows.Leak) == "dataset split_a split_b uid_a uid_b kind similarity".split()


def test_a_canonical_row_has_the_columns_of_its_table(tmp_path):
    recipe = {"name": "d", "task": "t", "language": "en", "label_set": None}
    row = {"uid": "d:train:1", "split": "train", "source": "f:1", "text": "x", "meta": {}}
    write_parquet(tmp_path / "train.parquet", [row], recipe)
    assert pq.read_schema(tmp_path / "train.parquet").names == columns_of(rows.CanonicalRow)


def test_a_stored_answer_is_an_answer():
    assert [field.name for field in fields(Answer)] == columns_of(rows.StoredAnswer)


def test_a_judgement_has_the_keys_of_its_type():
    recipe = {"model": "a", "against": "b", "criteria": ["accuracy"], "endpoint": {"model": "judge"}}
    value = vars(Answer("no JSON"))
    made = judgement(recipe, {"uid": "1", "dataset": "d"}, "original", 0, value)
    assert list(made) == columns_of(suite_rows.Judgement)


def test_a_manifest_has_the_keys_of_its_type(tmp_path):
    made, manifest = tmp_path / "made.txt", tmp_path / "made.manifest.json"
    made.write_text("x")
    write_manifest(manifest, rule="r", outputs=[made], parents=[], recipe={}, facts={"rows": 1})
    # Nothing of the user's was read, so that `local` is not there.
    assert read_json(manifest).keys() | {"local"} == set(columns_of(rows.Manifest))
    assert set(read_json(manifest)["files"]["made.txt"]) == set(columns_of(rows.FileFacts))
