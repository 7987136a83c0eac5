"""Wrong configs and files, each with the sentence that planning answers: run it to write docs/config-mistakes.md.

PYTHONPATH=scripts:tests python tests/config_mistakes.py
"""

import contextlib
import copy
import json
import os
import struct
import tempfile
from pathlib import Path

import yaml
from moult.base.errors import UserError
from moult.planning.check_config import check

PAGE = Path(__file__).parents[1] / "docs" / "config-mistakes.md"
HEAD = """# What planning says of a mistake

Made by the test that makes each of these mistakes. `snakemake -n`, a build and `make check-config` say the same: a
sentence for each mistake, and nothing behind it. Of a file that is no YAML at all Snakemake says so, in its own words,
before Moult sees it; `make check-config` then tells line and column.
"""
RIGHT = {
    "name": "tiny",
    "datasets": [
        {"name": "questions", "format": "stackoverflow", "files": {"train": "data/ml.tsv"}},
        {
            "name": "moods",
            "format": "mmla",
            "files": {"train": "data/train.tsv", "test": "data/test.tsv"},
            "labels": ["good", "bad"],
            "task": "mood",
            "prompt": "ours",
        },
        {"name": "chats", "format": "alpaca", "files": {"train": "data/chats.json"}},
    ],
    "endpoints": [
        {"name": "student", "serve": "base"},
        {"name": "teacher", "url": "https://api.example.com/v1", "model": "big", "price": {"input": 1, "output": 2}},
    ],
    "corpora": [
        {"name": "guidelines", "kind": "guidelines", "dataset": "questions", "endpoint": "student"},
        {"name": "distilled", "kind": "distilled", "guidelines": "guidelines", "endpoint": "teacher"},
    ],
    "models": [
        {
            "name": "base",
            "fetch": {"package": "pico-gguf", "version": "1.0", "file": "pico/m.gguf", "sha256": "0" * 64},
            "parameters": 0.1,
        },
        {"name": "tuned", "finetune": {"base": "base", "data": ["distilled"]}},
        {"name": "other", "finetune": {"base": "base", "data": ["moods"]}},
        {
            "name": "merged",
            "merge": {
                "method": "ties",
                "base": "base",
                "parents": [{"model": "tuned", "weight": 0.5}, {"model": "other", "weight": 0.5}],
            },
        },
    ],
    "suites": [
        {"name": "labels", "labels": {"datasets": ["moods"]}},
        {"name": "quality", "judge": {"datasets": ["questions"], "split": "train", "endpoint": "teacher"}},
    ],
    "evaluations": [
        {"suite": "labels", "models": ["base", "tuned", "merged"], "against": "base"},
        {"suite": "quality", "models": ["base", "tuned"], "against": "base"},
    ],
}
PROMPT = 'user: "{{ text }}: {{ labels | join(\', \') }}?"\nanswer: "{{ label }}"\n'
FILES = {
    "data/ml.tsv": "title\tquestion_content\nWhich metric?\tI have two classes.\nWhich loss?\tI have three.\n",
    "data/train.tsv": "id\ttext\tlabel\n1\tfine\tgood\n2\tmeh\tbad\n",
    "data/test.tsv": "id\ttext\tlabel\n3\twell\tgood\n4\toh\tbad\n",
    "data/chats.json": json.dumps([{"instruction": "Hello?", "output": "Hello."}]),
    "prompts/ours.yaml": PROMPT,
}
FIRST, TRAIN, PROMPTS = "data/ml.tsv", "data/train.tsv", "prompts/ours.yaml"


def write_right(folder):
    """Write the files of a config without a mistake."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def at(*path_and_value):
    """Return an edit that puts a value at a place of the config; the last key of a list appends."""
    *path, last, value = path_and_value

    def edit(config, folder):
        node = config
        for part in path:
            node = node[part]
        if isinstance(node, list) and last == len(node):
            node.append(value)
        else:
            node[last] = value

    return edit


def without(*path):
    def edit(config, folder):
        node = config
        for part in path[:-1]:
            node = node[part]
        del node[path[-1]]

    return edit


def file(name, content, *edits):
    """Return an edit that writes a file of the study, and edits the config, too."""

    def edit(config, folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        for one in edits:
            one(config, folder)

    return edit


def text(content):
    """Return an edit that writes the config as it stands."""
    return lambda config, folder: content


def both(*edits):
    def edit(config, folder):
        for one in edits:
            one(config, folder)

    return edit


def fetched(name, width):
    """Return an edit after which a model was fetched, with one tensor of `width`."""

    def edit(config, folder):
        place = folder / "results/tiny/models" / name
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 8}))
        header = json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [width], "data_offsets": [0, 4 * width]}})
        (place / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4 * width))

    return edit


ANOTHER = {"name": "foreign", "fetch": {"path": "models/x"}, "parameters": 1}
GUIDED, TUNED, MERGE = ("corpora", 0), ("models", 1, "finetune"), ("models", 3, "merge")
MOODS, TEACHER = ("datasets", 1), ("endpoints", 1)
NORMAL = yaml.safe_dump(RIGHT)
BOMB = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    + [f"{one}: &{one} [{', '.join([f'*{before}'] * 10)}]" for before, one in zip("abcdef", "bcdefg", strict=True)]
)

# Heading of the page → what is wrong → the edit that makes the mistake.
CASES = {
    "The file": {
        "a bracket that is not closed": text("name: x\nmodels: [\n"),
        "a quote that is not closed": text('name: "x\nseed: 1\n'),
        "a tab as indentation": text("name: x\ncompute:\n\tthreads: 2\n"),
        "a colon in a text without quotes": text("name: x\ntitle: First: a try\n"),
        "an indentation that fits nowhere": text("name: x\ncompute:\n    threads: 2\n  dtype: float32\n"),
        "a key that stands twice": text("name: x\nbudget: 5\nbudget: 5000\n"),
        "a list that stands twice": text(f"{NORMAL}datasets: []\n"),
        "a second document": text("name: x\n---\nname: y\n"),
        "an alias of nothing": text("name: x\ntitle: *y\n"),
        "aliases without measure": text(f"name: x\n{BOMB}\n"),
        "a tag that would run code": text("name: !!python/object/apply:os.system ['true']\n"),
        "a key that would run code": text("__use_yte__: true\nname: x\n"),
        "a list in place of keys": text("- name: x\n"),
        "UTF-16": lambda config, folder: (folder / "config.yaml").write_bytes(NORMAL.encode("utf-16")) and None,
        "Latin-1": lambda config, folder: (folder / "config.yaml").write_bytes(b"name: x\ntitle: caf\xe9\n") and None,
        "no such file": lambda config, folder: (folder / "config.yaml").unlink(missing_ok=True) or "",
    },
    "Keys and values": {
        "a misspelt key": at("sead", 1),
        "a misspelt key of an entry": at(*TUNED, "learnin_rate", 1e-4),
        "a key of another kind of corpus": at(*GUIDED, "gate", {}),
        "no name": without("name"),
        "a dataset without a format": without("datasets", 0, "format"),
        "a kind that is none": at(*GUIDED, "kind", "guideline"),
        "a corpus without a kind": without(*GUIDED, "kind"),
        "a choice that is none": at(*TUNED, "schedule", "cosin"),
        "a word where a number belongs": at(*TUNED, "epochs", "three"),
        "a fraction where a whole number belongs": at(*TUNED, "batch_size", 2.5),
        "a text where a list belongs": at(*TUNED, "data", "moods"),
        "a list where keys belong": at("models", 1, "finetune", ["base"]),
        "unquoted yes and no as labels": at(*MOODS, "labels", [True, False]),
        "a number as a name": at("models", 1, "name", 7),
        "nothing behind a key": at(*TUNED, "base", None),
        "a pattern as a LoRA target": at(*TUNED, "lora", {"targets": ["(a+)+$"]}),
        "a LoRA target that is neither word nor list": at(*TUNED, "lora", {"targets": 3}),
        "two ways to make one model": at("models", 1, "merge", RIGHT["models"][3]["merge"]),
        "`for` with an axis that nothing uses": at("models", 1, "for", {"size": [1, 2]}),
        "`for` with more entries than any study has": both(
            at("models", 1, "for", {"a": list(range(1000)), "b": list(range(1000))}),
            at("models", 1, "name", "m-{a}-{b}"),
        ),
        "a mistake in an entry with `for`": both(
            at("models", 1, "for", {"a": [1, 2]}), at("models", 1, "name", "m{a}"), at(*TUNED, "epochs", "x")
        ),
        "a key itself": at(*TEACHER, "api_key", "abc"),
        "what looks like a key": at("title", "sk-" + "a1" * 12),
    },
    "Names": {
        "a blank in a name": at("models", 1, "name", "my model"),
        "a name that leads out": at("models", 1, "name", "../x"),
        "a name that stands twice": at("models", 4, RIGHT["models"][1]),
        "names that differ in case alone": at("models", 4, RIGHT["models"][1] | {"name": "Tuned"}),
        "a dataset and a corpus of one name": at("datasets", 2, "name", "Distilled"),
        "a name that ends as files beside artefacts do": at("datasets", 2, "name", "x.manifest"),
        "a name that the score tables need": at("datasets", 2, "name", "mean"),
        "a base that is not there": at(*TUNED, "base", "bsae"),
        "an endpoint that is not there, twice": both(
            at(*GUIDED, "endpoint", "studnet"), at("corpora", 1, "endpoint", "studnet")
        ),
        "a model that is its own base": at(*TUNED, "base", "tuned"),
        "two models that are each other's base": both(
            at(*TUNED, "base", "other"), at("models", 2, "finetune", "base", "tuned")
        ),
        "a corpus that is its own source": at(
            "corpora",
            1,
            {"name": "refined", "kind": "refined", "corpus": "refined", "endpoint": "student", "judge": "teacher"},
        ),
        "training on guidelines": at(*TUNED, "data", ["guidelines"]),
        "a suite of labels on questions": at("suites", 0, "labels", "datasets", ["questions"]),
        "a split that a dataset has not": at("suites", 0, "labels", "split", "dev"),
        "compared with what is not measured": at("evaluations", 0, "against", "other"),
        "measured twice": at("evaluations", 0, "models", ["base", "base"]),
    },
    "Numbers": {
        "a learning rate of 0": at(*TUNED, "learning_rate", 0),
        "a learning rate of 20000 for 2e-4": at(*TUNED, "learning_rate", 2e4),
        "a share of 1": at("datasets", 0, "dev_fraction", 1),
        "a density of 2": at(*MERGE, "parents", 0, {"model": "tuned", "weight": 0.5, "density": 2}),
        "a budget that is no number": at("budget", float("nan")),
        "a price below zero": at(*TEACHER, "price", {"input": -1, "output": 2}),
        "a price of answers missing": at(*TEACHER, "price", {"input": 1}),
        "a budget without a price": both(at("budget", 5), without(*TEACHER, "price")),
        "a seed of thirty digits": at("seed", 10**30),
        "a slice without a row": at(
            "corpora",
            1,
            {
                "name": "refined",
                "kind": "refined",
                "dataset": "questions",
                "endpoint": "student",
                "judge": "teacher",
                "slice": [5, 5],
            },
        ),
    },
    "Data": {
        "a file that is not there": at("datasets", 0, "files", {"train": "data/nlp.tsv"}),
        "a folder in place of a file": at("datasets", 0, "files", {"train": "data"}),
        "a misspelt column": at(*MOODS, "columns", {"text": "txet"}),
        "a misspelt column that the format could do without": at(*MOODS, "columns", {"id": "uid"}),
        "a misspelt column of JSON": at(
            "datasets", 2, "columns", {"prompt": "instruction", "response": "output", "system": "sytem"}
        ),
        "a field that the format has not": at(*MOODS, "columns", {"txt": "text"}),
        "a table without the column": file(TRAIN, "id\tutterance\tlabel\n1\tfine\tgood\n"),
        "semicolons in a CSV": file(
            "data/train.csv", "id;text;label\n1;fine;good\n", at(*MOODS, "files", "train", "data/train.csv")
        ),
        "commas in a TSV": file(TRAIN, "id,text,label\n1,fine,good\n"),
        "a header that stands twice": file(TRAIN, "id\ttext\tlabel\nid\ttext\tlabel\n1\tfine\tgood\n"),
        "a column that stands twice": file(TRAIN, "text\ttext\tlabel\n1\tfine\tgood\n"),
        "a header and no row": file(TRAIN, "id\ttext\tlabel\n"),
        "an empty file": file(TRAIN, ""),
        "a table in UTF-16": file(TRAIN, FILES[TRAIN].encode("utf-16")),
        "an Excel workbook": file(TRAIN, b"PK\x03\x04" + bytes(60)),
        "a web page": file(TRAIN, "<!DOCTYPE html><html></html>"),
        "JSON that is cut": file("data/chats.json", '[{"instruction": "Hel'),
        "a label of the rows that is spelt otherwise": at(*MOODS, "labels", ["good", "baad"]),
        "labels of other rows": at(*MOODS, "labels", ["joy", "anger"]),
        "a label set that is not there": at(*MOODS, "labels", "MOSY"),
        "labels equal but for case": at(*MOODS, "labels", ["good", "bad", "Good"]),
        "labels equal but for a blank": at(*MOODS, "labels", ["good", "bad", "so so", "so_so"]),
        "no labels": at(*MOODS, "labels", []),
        "labels without a task": without(*MOODS, "task"),
        "a hub file outside of its repository": at(
            "datasets", 0, "files", {"train": {"hub": "a/b", "file": "../../x", "revision": "0" * 40}}
        ),
        "a dataset_info.json that is not there": at(
            "datasets", 2, {"name": "chats", "dataset_info": "data/dataset_info.json", "entries": {"train": "chats"}}
        ),
    },
    "Prompts and label sets": {
        "a prompt that is not there": at(*GUIDED, "prompt", "meteor/guidline"),
        "Jinja that is not closed": file(PROMPTS, 'user: "{{ text"\nanswer: "{{ label }}"\n'),
        "a field that rows have not": file(PROMPTS, 'user: "{{ txet }}"\nanswer: "{{ label }}"\n'),
        "no `answer`": file(PROMPTS, 'user: "{{ text }}"\n'),
        "an `answer` without the label": file(PROMPTS, 'user: "{{ text }}"\nanswer: "It is so."\n'),
        "a key that prompts have not": file(PROMPTS, f'{PROMPT}sytem: "x"\n'),
        "no `user`": file(PROMPTS, 'answer: "{{ label }}"\n'),
        "a prompt that is no YAML": file(PROMPTS, "user: [\n"),
        "a prompt that never ends": file(
            PROMPTS,
            'user: "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"\nanswer: x\n',
        ),
        "a prompt that reaches for code": file(
            PROMPTS, 'user: "{{ \'\'.__class__.__mro__ }}"\nanswer: "{{ label }}"\n'
        ),
        "a label set without labels": file("labels/mine.yaml", "task: mood\n", at(*MOODS, "labels", "mine")),
        "a label set with a label that is no text": file(
            "labels/mine.yaml", "task: mood\nlabels: [yes, no]\n", at(*MOODS, "labels", "mine")
        ),
    },
    "Models, merges and endpoints": {
        "an option of pip as a package": at("models", 0, "fetch", {"package": "-rr.txt", "version": "1", "file": "f"}),
        "an address as a package": at(
            "models", 0, "fetch", {"package": "x @ http://h/x.whl", "version": "1", "file": "f"}
        ),
        "a hub name that leads out": at("models", 0, "fetch", {"hub": "../..", "revision": "0" * 40}),
        "a model folder that is not there": at("models", 4, ANOTHER),
        "a file in place of a model folder": at("models", 4, ANOTHER | {"fetch": {"path": TRAIN}}),
        "no size of a fetched model": without("models", 0, "parameters"),
        "a method of merging that is none": at(*MERGE, "method", "tease"),
        "a merge of one": at(*MERGE, "parents", [{"model": "tuned", "weight": 1}]),
        "a merge without its base": without(*MERGE, "base"),
        "a merge of models of two sizes": both(
            at("models", 4, RIGHT["models"][0] | {"name": "wide"}),
            at(*MERGE, "parents", 1, {"model": "wide", "weight": 0.5}),
            fetched("base", 8),
            fetched("wide", 16),
        ),
        "`method: full` with LoRA settings": both(at(*TUNED, "method", "full"), at(*TUNED, "lora", {"rank": 4})),
        "a preset that is not there": at(*TUNED, "preset", "mmla/papier"),
        "an address that is none": at(*TEACHER, "url", "api.example.com/v1"),
        "a key in an address": at(*TEACHER, "url", "https://api.example.com/v1?api_key=abc"),
        "a key over http": both(at(*TEACHER, "url", "http://example.com/v1"), at(*TEACHER, "key", "MY_KEY")),
        "a variable that is none": at(*TEACHER, "key", "my key"),
        "an API without a model": without(*TEACHER, "model"),
        "a variable that holds no key": at(*TEACHER, "key", "MOULT_TEST_ODD_KEY"),
    },
}


def make(edit, folder):
    """Write a study with one mistake into an empty folder."""
    write_right(folder)
    config = copy.deepcopy(RIGHT)
    path = folder / "config.yaml"
    path.touch()
    written = edit(config, folder)
    if written is None and not path.stat().st_size:
        written = yaml.safe_dump(json.loads(json.dumps(config)))
    if written:
        path.write_text(written)


def sentence_of(edit, folder):
    """Return what planning says of a mistake, made in the empty folder; AssertionError where it says nothing."""
    make(edit, folder)
    os.environ["MOULT_TEST_ODD_KEY"] = "schlüssel"
    with contextlib.chdir(folder):
        try:
            check("config.yaml", lambda line: None)
        except UserError as error:
            return str(error).replace(str(folder), "&lt;folder>")
    raise AssertionError("is not refused")


def page():
    """Return docs/config-mistakes.md."""
    parts = [HEAD]
    for heading, cases in CASES.items():
        lines = [f"## {heading}", "", "| what is wrong | what is said |", "|---|---|"]
        for wrong, edit in cases.items():
            with tempfile.TemporaryDirectory() as folder:
                told = sentence_of(edit, Path(folder).resolve())
            lines.append(f"| {wrong} | {'<br>'.join(told.replace('|', '&#124;').splitlines())} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
