"""Items that people judged, in each published form: all go in, and what is damaged is told by file, row and remedy."""

import json

import pytest
from moult.base.errors import UserError
from moult.base.files import read_csv, read_jsonl
from moult.config.load import load
from moult.data.leakage import check_leakage
from moult.data.questions import judge_items
from moult.stages.datasets import check_leakage as leakage_recipe
from moult.stages.datasets import prepare_dataset as recipe_of
from prepared import prepare_with_manifest

PAIR = {"question_body": "Why is the sky blue?", "answer1_body": "Rayleigh scattering.", "answer2_body": "It just is."}
# One sound row of each form, and beside it what the record says of it.
ROWS = {
    "MELD's pairs": (
        {"id": 7, **PAIR, "reference": "Scattering.", "label": "A", "scenario": "explaining_general"}
        | {"category": "Professional Knowledge", "complexity": {"score": 3.2}},
        {"mode": "compare", "human": "A", "labels": ["A", "B", "Tie"], "category": "professional knowledge"},
    ),
    "MELD's grades": (
        {"id": 7, "question_body": "What is 17 × 6?", "answer_body": "102", "label": 7.5, "category": "math"},
        {"mode": "grade", "human": 7.5, "scale": [0, 10], "answer": "102"},
    ),
    "MELD's pairs of two lengths": (
        {"id": 7, "question": "Is 91 prime?", "answer1_body": "No, it is 7 × 13.", "answer2_body": "Yes.", "label": "A"}
        | {"tag": "long", "autoj_response": 5},
        {"mode": "compare", "human": "A", "labels": ["A", "B"], "tag": "long"},
    ),
    "PandaLM": (
        {"idx": 7, "motivation_app": "mail", "instruction": "Shorten it.", "input": "", "response1": True}
        | {"response2": "", "annotator1": 2, "annotator2": 0, "annotator3": 2, "label": 2},
        {"human": "B", "annotators": ["B", "Tie", "B"], "answer_1": "true", "answer_2": "", "question": "Shorten it."},
    ),
    "Feedback-Bench": (
        {"idx": "7", "instruction": "Advise me.", "response": "No.", "reference": "", "gpt4_score": 2}
        | {"gpt4_feedback": "", "category": "casual conversation"},
        {"mode": "grade", "human": 2, "scale": [1, 5], "reference": None, "uid": "d:test:7-2"},
    ),
    "JudgeBench": (
        {"pair_id": "p-7", "original_id": None, "source": "mmlu-pro-law", "question": "Which one?", "label": "B>A"}
        | {"response_model": "m", "response_A": "A", "response_B": "B"},
        {"human": "B", "labels": ["A", "B"], "tag": "knowledge", "origin": "mmlu-pro-law", "uid": "d:test:p-7"},
    ),
    "LLMBar": (
        {"input": "Add a hashtag.", "output_1": "#yes", "output_2": "no", "label": 1},
        {"human": "A", "labels": ["A", "B"], "tag": "Natural"},
    ),
    "Auto-J": (
        {"scenario": "post_summarization", "label": 2, "prompt": "Sum up.", "response 1": "One.", "response 2": "Two."},
        {"human": "Tie", "labels": ["A", "B", "Tie"], "tag": "Summarization", "scenario": "post_summarization"},
    ),
    "pairs of your own": (
        {"id": "own", "question": "Why?", "answer_1": "So.", "answer_2": "Because.", "human": "tie"}
        | {"annotators": ["A", "Tie"], "feedback": "Neither."},
        {"human": "Tie", "annotators": ["A", "Tie"], "feedback": "Neither.", "uid": "d:test:own"},
    ),
    "grades of your own": (
        {"id": "own", "question": "Why?", "answer": "So.", "human": 4, "annotators": [3, 5]},
        {"mode": "grade", "human": 4, "annotators": [3, 5]},
    ),
}


def prepare(folder, rows, text=None, name="Natural.json", **more):
    """Prepare one test file; return (items, rejects)."""
    place = folder / "raw" / "test" / f"00-{name}"
    place.parent.mkdir(parents=True)
    place.write_text(text or json.dumps(rows))
    entry = {"name": "d", "format": "judge", "files": {"test": name}} | more
    profile = prepare_with_manifest(
        recipe_of(load({"name": "x", "datasets": [entry]}), "d"), folder / "raw", folder / "d"
    )
    items, rejects = judge_items(folder / "d", ["test"]), read_jsonl(folder / "d" / "rejects.jsonl")
    assert profile["rows_in"]["test"] == len(items) + len(rejects)
    return items, rejects


@pytest.mark.parametrize("form", ROWS)
def test_a_row_of_each_form_is_one_record(form, tmp_path):
    row, wanted = ROWS[form]
    ((item,), rejects) = prepare(tmp_path, [row])
    assert rejects == [] and {key: item[key] for key in wanted} == wanted
    answers = ("answer",) if item["mode"] == "grade" else ("answer_1", "answer_2")
    assert all(isinstance(item[name], str) for name in answers) and item["question"]


def damages(row):
    """Yield (a field, the damaged row) of whatever a form reads: the cell gone, null, nested, or out of range."""
    ignored = ("id", "idx", "pair_id", "complexity", "autoj_response", "original_id", "response_model")
    optional = ("reference", "scenario", "category", "input", "motivation_app", "source", "gpt4_feedback", "feedback")
    for field, value in row.items():
        if field in ignored:
            continue
        if field not in (*optional, "annotators") and (field, row.get("annotator1")) != ("label", 2):
            yield field, {key: value for key, value in row.items() if key != field}
            yield field, row | {field: None}
        yield field, row | {field: {"nested": 1} if field != "annotators" else "A and B"}
        if field in ("label", "human", "gpt4_score") or field.startswith("annotator"):
            wrong = [["C", "A"]] if field == "annotators" else ["C", 11, True, -1]
            yield from ((field, row | {field: one}) for one in wrong)
        elif field in ("question", "question_body", "instruction", "prompt", "input") and row.get(field):
            asked = field != "input" or "output_1" in row
            yield from [(field, row | {field: " \n"})] if asked else []


@pytest.mark.parametrize("form", ROWS)
def test_each_damaged_field_is_told_by_file_row_and_remedy(form, tmp_path):
    sound = {key: value for key, value in ROWS[form][0].items() if key not in ("id", "idx", "pair_id")}
    found = list(damages(ROWS[form][0]))
    items, rejects = prepare(tmp_path, [sound, *(row for _, row in found), sound])
    assert len(items) == 2 and len(rejects) == len(found) > 5
    for number, (reject, (field, _)) in enumerate(zip(rejects, found, strict=True), start=2):
        assert reject["source"] == f"Natural.json:{number}"
        assert field in reject["reason"] and any(
            word in reject["reason"] for word in ("write", "add it", "correct one")
        )
        assert "\n" not in reject["reason"] and not reject["reason"].endswith(".")


def test_where_every_row_is_wrong_the_build_stops_with_the_reason(tmp_path):
    with pytest.raises(
        UserError, match="dataset d, test: no usable row, all 1 were rejected, 1 of them for: has no 'l"
    ):
        prepare(tmp_path, [PAIR])
    with pytest.raises(UserError, match="has the columns of no known form .*; map yours with `columns"):
        prepare(tmp_path / "more", [{"a": 1}])


def test_names_that_repeat_or_are_missing_lose_no_row(tmp_path):
    row = ROWS["MELD's pairs"][0]
    rows = [row, row | {"label": "B"}, row | {"id": None}, row | {"id": None}, row | {"answer1_body": ""}]
    items, rejects = prepare(tmp_path, rows)
    assert rejects == [] and len({item["uid"] for item in items}) == 5
    # Two equal answers are a pair: a person judged them.
    items, _ = prepare(tmp_path / "more", [row | {"answer1_body": "", "answer2_body": "", "label": "Tie"}])
    assert (items[0]["answer_1"], items[0]["answer_2"], items[0]["human"]) == ("", "", "Tie")


def test_forms_may_be_mixed_in_a_file_and_tables_are_read_as_json_is(tmp_path):
    items, _ = prepare(tmp_path, [row for row, _ in ROWS.values()])
    assert [item["mode"] for item in items].count("grade") == 3 and len(items) == len(ROWS)
    table = 'question,answer_1,answer_2,human\nWhy?,"So, so.",,B\nHow?,true,1.50,A\nWho?,a,b,C\n'
    items, (reject,) = prepare(tmp_path / "table", None, table, "mine.csv")
    assert [(item["answer_1"], item["answer_2"], item["human"]) for item in items] == [
        ("So, so.", "", "B"),
        ("true", "1.50", "A"),
    ]
    assert reject["source"] == "mine.csv:4" and reject["reason"] == "human is 'C'; write one of A, B, Tie"


def test_scores_by_dimension_are_read_where_they_are(tmp_path):
    graded, pair = ROWS["grades of your own"][0], ROWS["pairs of your own"][0]
    whole = [graded | {"scores": {"accuracy": 7, "tone": 3.0}}, pair | {"scores_1": {"a": 1}, "scores_2": {"a": 10}}]
    half = [graded | {"scores": None}, pair | {"scores_1": {"a": 1}}]
    wrong = [{"a": 11}, {"a": 0}, {"a": 2.5}, {"a": True}, {"a": "C"}, {"a": [1]}, {}, [7], 7, "seven"]
    items, rejects = prepare(tmp_path, [*whole, *half, *(graded | {"scores": one} for one in wrong)])
    assert [item.get("scores") for item in items] == [[{"accuracy": 7, "tone": 3}], [{"a": 1}, {"a": 10}], None, None]
    assert len(rejects) == len(wrong)
    assert all("scores" in one["reason"] and "write" in one["reason"] for one in rejects)
    table = 'question,answer,human,scores\nWhy?,So.,7,"{""accuracy"": 7}"\nHow?,So.,7,\n'
    items, _ = prepare(tmp_path / "table", None, table, "mine.csv")
    assert [item.get("scores") for item in items] == [[{"accuracy": 7}], None]


def test_columns_of_ones_own_are_mapped_and_named_in_what_is_wrong(tmp_path):
    columns = {"question": "ask", "answer": "said", "human": "marks"}
    items, (reject,) = prepare(
        tmp_path, [{"ask": "Why?", "said": "", "marks": 3}, {"ask": "How?", "marks": 3}], columns=columns
    )
    assert items[0]["human"] == 3 and "'said'" in reject["reason"]
    with pytest.raises(UserError, match="'answers' is not a field of judge; did you mean 'answer"):
        load(
            {
                "name": "x",
                "datasets": [{"name": "d", "format": "judge", "files": {"test": "t"}, "columns": {"answers": "a"}}],
            }
        )


def test_an_instruction_may_be_blank_where_its_input_asks(tmp_path):
    row = ROWS["PandaLM"][0]
    ((item,), rejects) = prepare(tmp_path, [row | {"instruction": " ", "input": "Truthfulness"}])
    assert rejects == [] and item["question"] == "Truthfulness"


def test_equal_label_of_pandalm_and_majority(tmp_path):
    row = ROWS["PandaLM"][0]
    _, rejects = prepare(tmp_path, [row, row | {"label": 1}, row | {"annotator1": 1}])
    assert [one["reason"].split(",")[0] for one in rejects] == [
        "label is '1'",
        "the three annotators say three different things",
    ]


def datasets(folder, **files):
    """Prepare judged datasets that share a question across modes; return the config."""
    cfg = load(
        {
            "name": "x",
            "datasets": [
                {"name": name, "format": "judge", "files": found, "leakage": {"found": "fail"}}
                for name, found in files.items()
            ],
        }
    )
    for dataset in cfg.datasets:
        for split, sources in dataset.files.items():
            for index, source in enumerate(sources):
                place = folder / "raw" / dataset.name / split / f"{index:02}-{source.path}"
                place.parent.mkdir(parents=True, exist_ok=True)
                rows = [
                    ROWS[f"MELD's {source.path.split('.')[0]}"][0]
                    | {"question_body": f"Unlike {source.path} {dataset.name} {split}"}
                ]
                place.write_text(json.dumps([*rows, *rows, rows[0] | {"question_body": "What is\n17 × 6"}]))
        prepare_with_manifest(recipe_of(cfg, dataset.name), folder / "raw" / dataset.name, folder / dataset.name)
    return cfg


def test_a_question_leaks_across_modes_and_datasets(tmp_path):
    cfg = datasets(tmp_path, one={"train": ["pairs.json"], "test": ["grades.json"]}, other={"test": ["pairs.json"]})
    beside = {"one": [tmp_path / "other"], "other": [tmp_path / "one"]}
    assert [leakage_recipe(cfg, name)["beside"] for name in ("one", "other")] == [["other"], ["one"]]
    for name in ("one", "other"):
        with pytest.raises(UserError, match=f"dataset {name}: 1 rows leak between splits"):
            check_leakage(leakage_recipe(cfg, name), tmp_path / name, tmp_path / f"{name}.csv", beside[name])
    found = {
        name: {
            (row["split_a"], row["split_b"], row["uid_a"].split(":")[0], row["kind"])
            for row in read_csv(tmp_path / f"{name}.csv")
        }
        for name in beside
    }
    assert {("train", "test", "one", "exact"), ("test", "test", "other", "exact")} <= found["one"]
    assert {("train", "test", "one", "exact"), ("test", "test", "one", "exact")} <= found["other"]


def test_tests_that_share_questions_are_told_and_fail_nothing(tmp_path):
    cfg = datasets(tmp_path, one={"test": ["grades.json"]}, other={"test": ["pairs.json"]})
    facts = check_leakage(leakage_recipe(cfg, "one"), tmp_path / "one", tmp_path / "one.csv", [tmp_path / "other"])
    assert facts == {"pairs": 1}


def test_rows_that_ask_the_same_are_carved_together(tmp_path):
    rows = [{"question": f"Why {n // 4}?", "answer": str(n), "human": 5, "id": str(n)} for n in range(40)]
    place = tmp_path / "raw" / "train" / "00-mine.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(rows))
    entry = {"name": "d", "format": "judge", "files": {"train": "mine.json"}, "dev_fraction": 0.1, "test_fraction": 0.2}
    prepare_with_manifest(recipe_of(load({"name": "x", "datasets": [entry]}), "d"), tmp_path / "raw", tmp_path / "d")
    asked = {
        split: {item["question"] for item in judge_items(tmp_path / "d", [split])} for split in ("train", "dev", "test")
    }
    assert sum(map(len, asked.values())) == 10 and all(asked.values())
    assert sum(len(judge_items(tmp_path / "d", [split])) for split in asked) == 40
