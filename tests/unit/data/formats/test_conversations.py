"""LLaMA-Factory's files go in and come out as they were; between, they are conversations that a model learns."""

import json

import pytest
from clips import light_pictures, write_clip
from hostile_page import as_bytes, outcome_of, table_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moult.base.errors import UserError
from moult.base.files import read_json, read_jsonl
from moult.config.load import load
from moult.data.examples import training_examples
from moult.data.exports import export_dataset, index_exports
from moult.data.formats.conversations import MEDIA
from moult.data.parquet import read_rows
from moult.data.prompts import Example, load_template, videos_of
from moult.data.videos.frames import Frames
from moult.inference.tokens import prompt_ids
from moult.inference.vision import Vision
from moult.stages import datasets as dataset_stages
from moult.training.encoding import encode_examples
from moult.training.finetune import finetune_lora
from pico import build_pico_vlm
from prepared import prepare_with_manifest
from transformers import AutoTokenizer
from tuning import RECIPE

LABELS = {"dataset": "d", "task": "mood", "task_words": "mood", "language": "en", "labels": ["joy", "anger"]}
OPENAI = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
OPENAI |= {"system_tag": "system"}
ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "history": "history", "system": "system"}
COLUMNS = {
    "sharegpt": {"messages": "conversations", "system": "system", "videos": "videos"},
    "alpaca": ALPACA | {"videos": "videos"},
}


def recipe(formatting, **more):
    plain = {"name": "d", "format": formatting, "columns": {}, "tags": {}, "files": {"train": ["train"]}}
    plain |= {"label_set": None, "task": "conversation", "language": "und", "dev_fraction": 0.0, "limit": None}
    return plain | {"seed": 1, "version": 1} | more


def prepare(folder, raw, formatting="sharegpt", ending=".json", **more):
    """Prepare one file and export it; return (rows, rejects, bytes of the export)."""
    place = folder / "raw" / "train" / f"00-train{ending}"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    prepare_with_manifest(recipe(formatting, **more), folder / "raw", folder / "data")
    facts = export_dataset({"name": "d", "template": None}, folder / "data", folder / "export")
    entry = read_json(folder / "export" / "dataset_info.json")["d_train"]
    rows = read_rows(folder / "data", "train")
    assert facts["rows"]["train"] == len(rows) and facts["dropped"] == []
    rejects = read_jsonl(folder / "data" / "rejects.jsonl")
    return rows, rejects, (folder / "export" / entry["file_name"]).read_bytes()


def talk(*texts, **more):
    """Return a sharegpt row in which human and gpt take turns."""
    turns = [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(texts)]
    return {"conversations": turns} | more


def examples_of(folder, template=None, source="d", split="train"):
    found, dropped = training_examples([folder / "data"], {source: template}, split)
    return found, dropped


# ---------------------------------------------------------------- the page

AROUND = {
    "sharegpt": (talk("before", "x"), talk("after", "x")),
    "alpaca": ({"instruction": "before", "output": "x"}, {"instruction": "after", "output": "x"}),
}


@pytest.mark.parametrize("formatting, example, outcome", table_of("Conversations"))
def test_a_row_becomes_what_the_page_says(tmp_path, formatting, example, outcome):
    before, after = (json.dumps(row).encode() for row in AROUND[formatting])
    raw = b"[" + before + b", " + as_bytes(example) + b", " + after + b"]"
    rows, rejects, exported = prepare(tmp_path, raw, formatting, columns=COLUMNS[formatting])
    kept, rejected = outcome_of(outcome)
    assert [row["text"] for row in rows] == ["before", *kept, "after"]
    assert [reject["reason"] for reject in rejects] == rejected
    assert len({row["uid"] for row in rows}) == len(rows)
    if kept:
        assert exported == raw
    else:
        assert exported == b"[" + before + b", " + after + b"]"


# ---------------------------------------------------------------- what goes in comes out

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
SAID = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\x00\x1b\u2028\ufeff"\\/]}[{,'), min_size=1)
SAID = SAID.filter(lambda text: text.strip() and "<" not in text)
TURNS = st.lists(st.tuples(SAID, SAID), min_size=1, max_size=3)
EXTRA = st.dictionaries(st.sampled_from(["weight", "Ä", "", "meta", "id"]), VALUES, max_size=3)
STYLES = st.sampled_from(
    [{"indent": 2}, {"indent": 4}, {"indent": "\t"}, {}, {"separators": (",", ":")}, {"indent": 0, "sort_keys": True}]
)
QUICK = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def sharegpt_rows(draw):
    row = talk(*(text for pair in draw(TURNS) for text in pair)) | draw(EXTRA)
    if draw(st.booleans()):
        row["conversations"].insert(0, {"from": "system", "value": draw(SAID)})
    for message in row["conversations"]:
        message.update(draw(st.dictionaries(st.just("loss"), VALUES)))
    return row


@st.composite
def alpaca_rows(draw):
    *history, (asked, answer) = draw(TURNS)
    row = {"instruction": asked, "output": answer} | draw(EXTRA)
    row |= draw(st.fixed_dictionaries({}, optional={"input": st.just("") | SAID, "system": st.none() | SAID}))
    return row | ({"history": [list(pair) for pair in history]} if history else {})


def written(rows, style, ascii_only, lines, final):
    if lines:
        compact = {key: value for key, value in style.items() if key != "indent"}
        text = "\n".join(json.dumps(row, ensure_ascii=ascii_only, **compact) for row in rows)
    else:
        text = json.dumps(rows, ensure_ascii=ascii_only, **style)
    return (text + final).encode()


@pytest.mark.slow
@QUICK
@given(
    st.lists(sharegpt_rows(), min_size=1, max_size=4), STYLES, st.booleans(), st.booleans(), st.sampled_from(["", "\n"])
)
def test_a_sharegpt_file_comes_out_byte_for_byte(tmp_path_factory, rows, style, ascii_only, lines, final):
    raw, folder = written(rows, style, ascii_only, lines, final), tmp_path_factory.mktemp("t")
    _, rejects, exported = prepare(folder, raw, ending=".jsonl" if lines else ".json")
    assert rejects == [] and exported == raw
    found, dropped = examples_of(folder)
    answers = [turn["value"] for row in rows for turn in row["conversations"] if turn["from"] == "gpt"]
    assert [example.answer for example in found] == answers and dropped == []
    assert len({example.uid for example in found}) == len(found)


@pytest.mark.slow
@QUICK
@given(
    st.lists(alpaca_rows(), min_size=1, max_size=4), STYLES, st.booleans(), st.booleans(), st.sampled_from(["", "\n"])
)
def test_an_alpaca_file_comes_out_byte_for_byte(tmp_path_factory, rows, style, ascii_only, lines, final):
    raw, folder = written(rows, style, ascii_only, lines, final), tmp_path_factory.mktemp("t")
    _, rejects, exported = prepare(folder, raw, "alpaca", ".jsonl" if lines else ".json", columns=ALPACA)
    assert rejects == [] and exported == raw
    found, dropped = examples_of(folder)
    answers = [answer for row in rows for answer in [*(pair[1] for pair in row.get("history", ())), row["output"]]]
    assert [example.answer for example in found] == answers and dropped == []


@pytest.mark.slow
@QUICK
@given(st.lists(VALUES | st.fixed_dictionaries({"conversations": VALUES, "videos": VALUES}), max_size=4), st.booleans())
def test_any_json_is_a_row_or_a_reject(tmp_path_factory, values, lines):
    rows = [talk("sure", "yes"), *values]
    raw = written(rows, {}, True, lines, "")
    kept, rejects, exported = prepare(
        tmp_path_factory.mktemp("t"), raw, ending=".jsonl" if lines else ".json", columns=COLUMNS["sharegpt"]
    )
    assert len(kept) + len(rejects) == len(rows) and len(kept) == 1
    assert json.loads(exported.decode().strip("[]\n")) == rows[0]


def test_rejected_rows_are_left_out_and_the_rest_is_as_it_was(tmp_path):
    rows = [talk("a", "b", n=1.50), talk("a"), talk("c", "d", n=10**30)]
    _, rejects, exported = prepare(tmp_path, json.dumps(rows, indent=4))
    assert [reject["source"] for reject in rejects] == ["train.json:2"]
    assert exported.decode() == json.dumps([rows[0], rows[2]], indent=4)


def test_numbers_keep_their_spelling_and_line_ends_theirs(tmp_path):
    raw = b'{"conversations": [{"from":"human","value":"a"},{"from":"gpt","value":"b"}], "n": 1.50e+0}\r\n'
    assert prepare(tmp_path / "a", raw * 2, ending=".jsonl")[2] == raw * 2
    assert (
        prepare(tmp_path / "b", b" [\r\n" + raw + b" ,\r\n" + raw + b"]\r\n\r\n")[2]
        == b" [\r\n" + raw + b" ,\r\n" + raw + b"]\r\n\r\n"
    )


def test_a_table_of_alpaca_columns_comes_out_as_json(tmp_path):
    rows, _, exported = prepare(tmp_path, 'instruction,input,output\n"a, b",,"c ""d"""\n', "alpaca", ".csv")
    assert json.loads(exported) == [{"instruction": "a, b", "input": "", "output": 'c "d"'}]
    assert rows[0]["text"] == "a, b"


def test_a_dev_split_carved_out_of_train_is_exported_too(tmp_path):
    rows = [talk(f"question {index}", "yes", id=index) for index in range(10)]
    prepare(tmp_path, json.dumps(rows, indent=2), dev_fraction=0.3)
    info = read_json(tmp_path / "export" / "dataset_info.json")
    parts = [read_json(tmp_path / "export" / info[name]["file_name"]) for name in ("d_train", "d_dev")]
    assert [len(part) for part in parts] == [7, 3]
    assert sorted(parts[0] + parts[1], key=lambda row: row["id"]) == rows


# ---------------------------------------------------------------- what is learned


def test_every_answer_is_learned_after_all_that_was_said_before(tmp_path):
    row = talk(" a", "b ", "c", "d", system="s", id=5)
    prepare(tmp_path, json.dumps([row]), columns={"messages": "conversations", "system": "system"})
    system, asked = {"role": "system", "content": "s"}, {"role": "user", "content": " a"}
    before = [system, asked, {"role": "assistant", "content": "b "}, {"role": "user", "content": "c"}]
    assert examples_of(tmp_path) == (
        [Example("d/d:train:5#1", [system, asked], "b "), Example("d/d:train:5#2", before, "d")],
        [],
    )


def test_openai_messages_are_sharegpt_by_other_tags(tmp_path):
    messages = [("system", "s"), ("user", "a"), ("assistant", "b")]
    row = {"messages": [{"role": role, "content": text} for role, text in messages]}
    raw = json.dumps([row])
    _, _, exported = prepare(tmp_path, raw, columns={"messages": "messages"}, tags=OPENAI)
    (example,), _ = examples_of(tmp_path)
    assert [*example.messages, {"role": "assistant", "content": example.answer}] == row["messages"]
    assert exported.decode() == raw
    entry = read_json(tmp_path / "export" / "dataset_info.json")["d_train"]
    assert entry == {
        "file_name": "d_train.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": OPENAI,
    }


def test_a_system_message_wins_over_the_column_and_an_empty_one_is_none(tmp_path):
    row = talk("a", "b", system="column")
    other = talk("c", "d", system="column")
    row["conversations"].insert(0, {"from": "system", "value": "message"})
    other["conversations"].insert(0, {"from": "system", "value": ""})
    prepare(tmp_path, json.dumps([row, other]), columns={"messages": "conversations", "system": "system"})
    first, second = examples_of(tmp_path)[0]
    assert [message["content"] for message in first.messages] == ["message", "a"]
    assert [message["content"] for message in second.messages] == ["c"]


def test_what_is_not_named_is_not_read_as_in_llamafactory(tmp_path):
    row = {"instruction": "a", "input": "b", "output": "c", "system": "s", "history": [["d", "e"]]}
    prepare(tmp_path / "a", json.dumps([row]), "alpaca")
    (example,), _ = examples_of(tmp_path / "a")
    assert [message["content"] for message in example.messages] == ["a\nb"]
    prepare(tmp_path / "b", json.dumps([row]), "alpaca", columns={"prompt": "instruction", "response": "output"})
    (example,), _ = examples_of(tmp_path / "b")
    assert [message["content"] for message in example.messages] == ["a"]


def test_what_cannot_be_trained_on_is_kept_and_said(tmp_path, caplog):
    calls = talk("a", "{}", "", "b", tools="[]")
    for turn, role in zip(calls["conversations"], ("human", "function_call", "observation", "gpt"), strict=True):
        turn["from"] = role
    uncalled = talk("e", "f", tools="[]")
    seen = talk("<image>a", "b", images=["i.png"])
    columns = {"messages": "conversations", "tools": "tools", "images": "images"}
    prepare(tmp_path / "a", json.dumps([calls, seen, talk("c", "d"), uncalled]), columns=columns)
    found, dropped = examples_of(tmp_path / "a")
    assert [example.answer for example in found] == ["d", "f"]
    assert [one["reason"] for one in dropped] == [
        "calls tools, which is not trained on",
        "has images, which are not trained on",
    ]
    prepare(tmp_path / "b", json.dumps([calls]), columns=columns)
    with pytest.raises(UserError, match="d, train: no row can be trained on: 1 calls tools, which is not trained on."):
        examples_of(tmp_path / "b")
    # Beside a dataset that has some it is left out.
    folders = {"b": tmp_path / "b" / "data", "a": tmp_path / "a" / "data"}
    found, dropped = training_examples(list(folders.values()), dict.fromkeys(folders), "train")
    assert [one.uid.split("/")[0] for one in found] == ["a", "a"] and len(dropped) == 3
    assert "b: no row of train can be trained on, it is left out: 1 calls tools" in caplog.text


def test_labelled_rows_come_out_and_back_in_as_the_same_examples(tmp_path):
    raw = tmp_path / "raw" / "train" / "00-train.tsv"
    raw.parent.mkdir(parents=True)
    raw.write_text('id\ttext\tlabel\n1\tFine, "so be it" \u2028 <video>.\tjoy\n2\t{{ no }}\tanger\n')
    labelled = recipe("mmla", label_set=LABELS, task="mood", name="moods")
    prepare_with_manifest(labelled, tmp_path / "raw", tmp_path / "data")
    template = load_template("mmla/text")
    facts = export_dataset({"name": "moods", "template": template}, tmp_path / "data", tmp_path / "export")
    assert facts["rows"] == {"train": 2}
    before, _ = examples_of(tmp_path, template, "moods")
    entry = read_json(tmp_path / "export" / "dataset_info.json")["moods_train"]
    again = tmp_path / "again"
    prepare(
        again, (tmp_path / "export" / entry["file_name"]).read_bytes(), entry["formatting"], columns=entry["columns"]
    )
    after, _ = examples_of(again)
    assert [(one.messages, one.answer) for one in after] == [(one.messages, one.answer) for one in before]
    assert [one.uid for one in after] == ["d/d:train:moods:train:1", "d/d:train:moods:train:2"]


def test_questions_without_answers_are_nothing_to_export(tmp_path):
    raw = tmp_path / "raw" / "train" / "00-ml.tsv"
    raw.parent.mkdir(parents=True)
    raw.write_text("title\tquestion_content\na\tb\n")
    prepare_with_manifest(recipe("stackoverflow", files={"train": ["ml"]}), tmp_path / "raw", tmp_path / "data")
    with pytest.raises(UserError, match="no row can be trained on: 1 no answer to train on"):
        export_dataset({"name": "d", "template": load_template("meteor/answer")}, tmp_path / "data", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_dataset_info_names_the_files_of_all_exports(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset_info.json").write_text(json.dumps({f"{name}_train": {"file_name": "x.json"}}))
    index_exports([tmp_path / "a", tmp_path / "b"], tmp_path / "dataset_info.json")
    info = read_json(tmp_path / "dataset_info.json")
    assert {name: entry["file_name"] for name, entry in info.items()} == {"a_train": "a/x.json", "b_train": "b/x.json"}


# ---------------------------------------------------------------- videos

SAMPLED = {"frames": 2, "max_pixels": 4704, "min_pixels": 784, "multiple": 28}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of two clips, and a file that is none."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "scenes").mkdir()
    write_clip(folder / "scenes" / "red.mp4", light_pictures("red", "steady", 1))
    write_clip(folder / "blue.mp4", light_pictures("blue", "blinking", 2))
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def prepare_videos(folder, clips, rows, **more):
    place = folder / "raw" / "train" / "00-train.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(rows))
    told = {"columns": COLUMNS["sharegpt"], "videos": SAMPLED, "videos_version": 1} | more
    return prepare_with_manifest(recipe("sharegpt", **told), folder / "raw", folder / "data", clips, folder / "scratch")


def test_videos_stand_where_their_tokens_stood(tmp_path, clips):
    asked = "<video>\nWhat is this?"
    rows = [
        talk(asked, "red", f"And {MEDIA['videos']} or {MEDIA['videos']}<|im_end|>?", "blue", id="a")
        | {"videos": ["scenes/red.mp4", "/elsewhere/blue.mp4", "scenes/red.mp4"]},
        talk(asked, "red", videos="gone.mp4", id="b"),
        talk(asked, "red", videos=["broken.mp4"], id="c"),
        talk("No video?", "none", videos=[], id="d"),
    ]
    profile = prepare_videos(tmp_path, clips, rows)
    assert profile["rejects"] == {
        "the video holds no video that can be decoded, or no frame": 1,
        "the video is missing": 1,
    }
    found = {row["uid"][-1]: row for row in read_rows(tmp_path / "data", "train")}
    assert set(found) == {"a", "d"} and found["d"]["media"] is None
    red, blue, again = found["a"]["media"]
    assert [red["path"], blue["path"]] == ["scenes/red.mp4", "blue.mp4"] and again == red

    examples, dropped = examples_of(tmp_path)
    first, second, plain = examples
    shown = [{"type": "video", "video": red["frames"]}, {"type": "text", "text": "\nWhat is this?"}]
    assert first.messages == [{"role": "user", "content": shown}] and dropped == []
    assert videos_of(second.messages) == [red["frames"], blue["frames"], red["frames"]]
    assert plain.messages == [{"role": "user", "content": "No video?"}]

    tokenizer = AutoTokenizer.from_pretrained(build_pico_vlm(tmp_path / "vlm"))
    pad, video = tokenizer.convert_tokens_to_ids("<|video_pad|>"), "<|vision_start|><|video_pad|><|vision_end|>"
    ids = prompt_ids(tokenizer, second.messages)
    assert tokenizer.decode(ids) == (
        f"<|im_start|>user\n{video}\nWhat is this?<|im_end|>\n<|im_start|>assistant\nred<|im_end|>\n"
        f"<|im_start|>user\nAnd {video} or {video}<|im_end|>?<|im_end|>\n<|im_start|>assistant\n"
    )
    vision = Vision(tmp_path / "vlm", Frames([tmp_path / "data"]))
    encoded, _, rejects = encode_examples(tokenizer, examples, 200, vision)
    assert rejects == [] and [row["input_ids"].count(pad) for row in encoded] == [6, 18, 0]
    settings = RECIPE | {"evaluate_every": None, "max_steps": 2, "max_length": 200}
    report = finetune_lora(
        settings, tmp_path / "vlm", examples, [], tmp_path / "trained", tmp_path / "adapter", [tmp_path / "data"]
    )
    assert report["n_train"] == 3 and report["steps"] == 2


def test_rows_with_videos_come_out_as_they_were_and_limit_counts_them(tmp_path, clips):
    rows = [talk("<video>a", "b", videos=["blue.mp4"], id=index) for index in range(4)]
    profile = prepare_videos(tmp_path, clips, rows, limit=3)
    assert profile["splits"]["train"] | {"words": None} == {
        **{"rows": 3, "left_out_by_limit": 1, "labels": {}, "words": None, "duplicate_texts": 2}
    }
    export_dataset({"name": "d", "template": None}, tmp_path / "data", tmp_path / "export")
    assert all(row in rows for row in read_json(tmp_path / "export" / "d_train.json"))


def test_videos_that_nobody_said_where_are_kept_and_not_trained_on(tmp_path):
    rows = [talk("<video>a", "b", videos=["blue.mp4"]), talk("c", "d"), talk("a", "<video>", videos=["blue.mp4"])]
    found, _, exported = prepare(tmp_path, json.dumps(rows), columns=COLUMNS["sharegpt"])
    assert [medium["path"] for medium in found[0]["media"]] == ["blue.mp4"] and json.loads(exported) == rows
    examples, dropped = examples_of(tmp_path)
    assert len(examples) == 1
    assert dropped[0]["reason"] == "has videos; say where they are, with `videos: {path: ...}` in the dataset"


def test_labelled_videos_come_out_and_back_in_as_the_same_examples(tmp_path, clips):
    raw = tmp_path / "raw" / "train" / "00-train.tsv"
    raw.parent.mkdir(parents=True)
    raw.write_text("id\ttext\tlabel\tvideo\n1\tFine.\tjoy\tblue.mp4\n2\tA <video>!\tanger\tscenes/red.mp4\n")
    labelled = recipe("mmla", label_set=LABELS, name="moods", videos=SAMPLED)
    prepare_with_manifest(labelled, tmp_path / "raw", tmp_path / "data", clips, tmp_path / "scratch")
    template = load_template("mmla/video")
    facts = export_dataset({"name": "moods", "template": template}, tmp_path / "data", tmp_path / "export")
    assert facts["rows"] == {"train": 1}
    assert [one["uid"] for one in facts["dropped"]] == ["moods/moods:train:2"]
    entry = read_json(tmp_path / "export" / "dataset_info.json")["moods_train"]
    rows = read_json(tmp_path / "export" / entry["file_name"])
    assert rows[0]["videos"] == ["blue.mp4"] and rows[0]["conversations"][0]["value"].startswith("<video>In the video")
    prepare_videos(tmp_path / "again", clips, rows, columns=entry["columns"])
    before, after = examples_of(tmp_path, template, "moods")[0][0], examples_of(tmp_path / "again")[0][0]
    assert (after.messages, after.answer) == (before.messages, before.answer)


# ---------------------------------------------------------------- dataset_info.json

INFO = {
    "plain": {"file_name": "plain.json"},
    "chat": {"file_name": "chat.json", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": OPENAI},
    "chat_dev": {
        "file_name": "dev.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": OPENAI,
    },
    "folder": {"file_name": "parts"},
    "hub": {"hf_hub_url": "owner/rows", "formatting": "sharegpt"},
    "preferences": {"file_name": "x.json", "ranking": True, "columns": {"prompt": "p", "chosen": "c"}},
    "tagged": {"file_name": "x.json", "columns": {"prompt": "p", "response": "r", "kto_tag": "k"}},
    "documents": {"file_name": "x.json", "columns": {"prompt": "text"}},
    "drawn": {"file_name": "x.json", "num_samples": 5},
    "odd": {"file_name": "x.json", "formatting": "openai"},
    "script": {"script_url": "x"},
    "scope": {"ms_hub_url": "owner/rows", "file_name": "x.json"},
    "none": {"file_name": "x.json", "columns": {"messages": "conversations"}},
}


def configured(folder, **entry):
    (folder / "parts").mkdir(exist_ok=True)
    (folder / "parts" / "b.json").touch()
    (folder / "parts" / "a.json").touch()
    (folder / "dataset_info.json").write_text(json.dumps(INFO))
    entry = {"name": "d", "dataset_info": str(folder / "dataset_info.json")} | entry
    return load({"name": "x", "datasets": [entry]})


def test_entries_of_a_dataset_info_are_a_dataset(tmp_path):
    cfg = configured(tmp_path, entries={"train": "chat", "dev": "chat_dev"})
    dataset = cfg.find("datasets", "d")
    assert {split: [one.path for one in files] for split, files in dataset.files.items()} == {
        "train": [f"{tmp_path}/chat.json"],
        "dev": [f"{tmp_path}/dev.json"],
    }
    told = dataset_stages.prepare_dataset(cfg, "d")
    assert (told["format"], told["columns"], told["tags"]) == ("sharegpt", {"messages": "messages"}, OPENAI)
    assert str(tmp_path) not in json.dumps(told)
    folder = configured(tmp_path, entries={"train": "folder"}).find("datasets", "d")
    assert [one.basename for one in folder.files["train"]] == ["a.json", "b.json"] and folder.format == "alpaca"


def test_an_entry_on_a_hub_takes_its_file_from_the_config(tmp_path):
    with pytest.raises(
        UserError, match=r"is on the hub \(owner/rows\).*`files: {train: {hub: owner/rows, revision: null, "
    ):
        configured(tmp_path, entries={"train": "hub"})
    files = {"train": {"hub": "owner/rows", "revision": None, "file": "train.json"}}
    (source,) = configured(tmp_path, entries={"train": "hub"}, files=files).find("datasets", "d").files["train"]
    assert (source.hub, source.file) == ("owner/rows", "train.json")


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"entries": {"train": "chta"}}, "'chta' is not in .*; did you mean 'chat'?"),
        ({"entries": {"train": "chat", "dev": "plain"}}, "'chat', 'plain' differ in formatting, columns or tags"),
        ({"entries": {"train": "preferences"}}, "columns: 'rejected' is missing; as in LLaMA-Factory"),
        ({"entries": {"train": "tagged"}}, "columns: 'kto_tag' is of data for KTO, which are not read"),
        ({"entries": {"train": "documents"}}, "columns: `prompt` alone is pre-training text, which has no answer"),
        ({"entries": {"train": "drawn"}}, "num_samples draws rows by chance; leave it out"),
        ({"entries": {"train": "odd"}}, "formatting 'openai' is not read; write sharegpt, with tags"),
        ({"entries": {"train": "script"}}, "has script_url; save the rows as a file"),
        ({"entries": {"train": "scope"}}, "has ms_hub_url; save the rows as a file"),
        ({"entries": {"train": "none"}}, "columns names none of alpaca; leave it out, and its defaults hold"),
        ({"entries": {"train": "plain"}, "files": {"dev": "x.json"}}, "files: dev has no entry"),
        ({}, "entries: name the entry of each split"),
        (
            {"entries": {"train": "chat"}, "format": "alpaca"},
            "format: the entries of dataset_info say it; leave it out",
        ),
        ({"entries": {"train": "chat"}, "dataset_info": "gone.json"}, "dataset_info: gone.json: cannot be read"),
        (
            {"entries": {"train": "plain"}, "labels": ["a"], "task": "t"},
            "labels: rows of format alpaca have none; leave",
        ),
    ],
)
def test_an_entry_that_cannot_be_read_is_told_with_its_remedy(tmp_path, entry, sentence):
    with pytest.raises(UserError, match=sentence) as told:
        configured(tmp_path, **entry)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (
            {"format": "sharegpt", "columns": {"mesages": "m"}},
            "'mesages' is no column of sharegpt; did you mean 'messages'?",
        ),
        ({"format": "sharegpt", "columns": {"videos": "v"}}, "columns: 'messages' is missing"),
        ({"format": "sharegpt", "tags": {"role_tag": "role"}}, "tags: 'content_tag' is missing"),
        (
            {"format": "sharegpt", "tags": OPENAI | {"rolle": "x"}},
            "tags: 'rolle' is no tag of sharegpt; did you mean 'role_tag'?",
        ),
        ({"format": "alpaca", "tags": OPENAI}, "tags: only sharegpt has them"),
        ({"format": "alpaca", "prompt": "mmla/text"}, "prompt: a row of alpaca has its own prompt; leave it out"),
        (
            {"format": "sharegpt", "videos": {"path": "v"}},
            "name the column of the videos too, e.g. `columns: {messages: ",
        ),
        ({"format": "stackoverflow", "tags": OPENAI}, "tags and entries belong to the formats of LLaMA-Factory"),
        ({"format": "stackoverflow", "labels": ["a"], "task": "t"}, "labels: rows of format stackoverflow have none"),
    ],
)
def test_a_wrong_layout_is_told(entry, sentence):
    with pytest.raises(UserError) as told:
        load({"name": "x", "datasets": [{"name": "d", "files": {"train": "a.json"}} | entry]})
    assert sentence in str(told.value)
