"""Probing sets on disk: read whole, of every type, and refused in one sentence where something is wrong."""

import csv
import shutil
from pathlib import Path

import pytest
from moult.base.errors import UserError
from moult.base.files import read_csv
from moult.evaluation.probing.published import published_probes, published_value, subfield_means
from moult.evaluation.probing.sets import SPLITS, TYPES, names_below, read_set
from moult.evaluation.probing.units import Unit

ROOT = Path(__file__).parents[4]
DATA = ROOT / "tests" / "data" / "holmes"
RULES = ROOT / "resources" / "holmes"


def test_a_real_set_is_read_whole():
    causative = read_set(DATA / "blimp-causative")
    assert [len(causative.of(split)) for split in SPLITS] == [43, 200, 400]
    assert (causative.type, causative.labels) == ("SENTENCE", 2)
    assert (causative.subfield, causative.phenomenon) == ("syntax", "argument structure")
    ids = [int(row.id) for row in causative.rows]
    assert ids == sorted(ids)
    # Of each pair the even one is good; one of train lacks its partner.
    assert all(row.label == int(row.id) % 2 for row in causative.rows)
    train = {int(row.id) for row in causative.of("train")}
    assert [one for one in train if one ^ 1 not in train] == [80]


def test_the_sets_written_by_rule_are_of_every_type_and_those_that_their_rule_writes(tmp_path):
    found = {name: read_set(folder) for name, folder in names_below([RULES]).items()}
    assert {one.type for one in found.values()} == set(TYPES) and len(found) == 12
    assert {one.subfield for one in found.values()} == {"discourse", "morphology", "reasoning", "semantics", "syntax"}
    for one in found.values():
        assert [len(one.of(split)) for split in SPLITS] == [64, 24, 48]
        texts = {split: {unit.texts for row in one.of(split) for unit in row.slots} for split in SPLITS}
        if one.type in ("SENTENCE", "SENTENCE_TOKENS", "SENTENCE_SPANS", "SENTENCE_PAIR_CROSS"):
            assert not texts["train"] & texts["test"]
    scope: dict = {"__name__": "make", "__file__": str(RULES / "make.py")}
    exec(compile((RULES / "make.py").read_text(), "make.py", "exec"), scope)
    scope["write"](tmp_path)
    for path in tmp_path.rglob("*.*"):
        assert path.read_bytes() == (RULES / path.relative_to(tmp_path)).read_bytes()


# Rows that were looked at by hand: set, place in the file → what is read and the label that is right.
CHECKED = [
    ("rule-agreement", 0, ["The dog near the baskets waits gladly."], 0),
    ("rule-agreement", 1, ["The horse near the anchors wait slowly."], 1),
    ("rule-role", 0, ["old", "horse", "painted"], 0),
    ("rule-role", 1, ["broken", "lantern", "lifted"], 1),
    ("rule-coreference", 0, ["Helen", "he"], 0),
    ("rule-opposites", 1, ["hot", "cold"], 1),
]


@pytest.mark.parametrize(("name", "place", "words", "label"), CHECKED)
def test_patterns_that_were_checked_by_hand(name, place, words, label):
    row = read_set(RULES / name).rows[place]
    assert (list(row.words), row.label) == (words, label)
    for unit in row.slots:
        marked = [unit.texts[part][start:end] for element in unit.elements for part, start, end in element]
        assert set(marked) <= set(words)


def test_tokens_spans_and_pairs_are_what_is_read():
    pos = read_set(DATA / "lookalike-pos").rows[0]
    assert pos.slots == (Unit(("Hal drops the lantern.",), (((0, 0, 3),),)),)
    srl = read_set(DATA / "lookalike-srl").rows[0]
    text = ("Ben paints the old ladder.",)
    assert srl.slots == (
        Unit(text, (((0, 11, 14),), ((0, 15, 18),), ((0, 19, 25),))),
        Unit(text, (((0, 0, 3),),)),
    )
    pair = read_set(DATA / "lookalike-paraphrase").rows[0]
    assert [unit.texts for unit in pair.slots] == [("Fay drops the basket.",), ("The violin is what Fay drops.",)]
    together = read_set(RULES / "rule-order").rows[0]
    assert len(together.slots) == 1 and len(together.slots[0].texts) == 2
    crossed = read_set(RULES / "rule-opposites").rows[1]
    assert [unit.elements[0][0][0] for unit in crossed.slots] == [0, 1]
    assert crossed.slots[0].texts == crossed.slots[1].texts
    assert read_set(DATA / "lookalike-length").regression


def edited(folder, name, edit, config=None):
    """Copy a set, change its rows; return the folder. edit: takes the list of rows, header and all, in place."""
    copy = shutil.copytree(DATA / name, folder / name)
    with open(copy / "samples.csv", newline="") as handle:
        rows = list(csv.reader(handle))
    edit(rows)
    with open(copy / "samples.csv", "w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    for old, new in (config or {}).items():
        path = copy / "config-none.yaml"
        path.write_text(path.read_text().replace(old, new))
    return copy


def cell(line, column, text):
    def edit(rows):
        rows[line][rows[0].index(column)] = text

    return edit


def without(column):
    def edit(rows):
        place = rows[0].index(column)
        for row in rows:
            del row[place]

    return edit


def of_split(old, new):
    def edit(rows):
        place = rows[0].index("set-0")
        for row in rows:
            row[place] = row[place].replace(old, new)

    return edit


def strange_label(rows):
    place, split = rows[0].index("label"), rows[0].index("set-0")
    for row in rows[1:]:
        if row[place] == "3" and row[split] == "train":
            row[place] = "2"


def two_classes(rows):
    place = rows[0].index("label")
    for number, row in enumerate(rows[1:]):
        row[place] = str(number % 2)


CODE = "(__import__('os').system('touch hacked'),)"
BROKEN = [
    ("blimp-causative", cell(3, "inputs", "('Benjamin"), "line 4: inputs holds no literal"),
    ("blimp-causative", cell(3, "inputs", CODE), "line 4: inputs holds no literal"),
    ("blimp-causative", cell(3, "inputs", "(" * 9000), "line 4: inputs holds no literal"),
    ("blimp-causative", cell(3, "inputs", "(1,)"), "line 4: an input of a SENTENCE probe is no text"),
    ("lookalike-pos", cell(3, "context", "open('x')"), "line 4: context holds no literal"),
    ("blimp-causative", without("label"), "has no column 'label'"),
    ("blimp-causative", without("inputs"), "has no column 'inputs'"),
    ("blimp-causative", without("set-0"), "has no column 'set-0'"),
    ("blimp-causative", of_split("dev", "test"), "has no row of dev"),
    ("blimp-causative", cell(2, "set-0", "valid"), "line 3: the split 'valid'"),
    ("blimp-causative", cell(2, "label", "7"), "line 3: the label 7 is no class from 0 to 1"),
    ("blimp-causative", cell(2, "label", "good"), "line 3: the label 'good' is no number"),
    ("blimp-causative", cell(2, "label", "nan"), "line 3: the label 'nan' is no number"),
    ("lookalike-pos", strange_label, "the label 3 of dev never stands in train"),
    ("lookalike-pos", cell(1, "inputs", "(('Hal', 0, 0, 99),)"), "line 2: ('Hal', 0, 0, 99) is outside its sentence"),
    ("lookalike-pos", cell(1, "inputs", "(('Hal', 0, 3, 3),)"), "is outside its sentence"),
    ("lookalike-pos", cell(1, "inputs", "(('Hal', 4, 0, 3),)"), "is in sentence 4, context has 1"),
    ("lookalike-pos", cell(1, "inputs", "(('Hal', 0, 0),)"), "is no (text, sentence"),
    ("lookalike-length", two_classes, "is a regression (num_labels: 1) with two classes"),
    ("lookalike-paraphrase", cell(2, "inputs", "('One.',)"), "line 3: a SENTENCE_PAIR_BI probe reads two sentences"),
    ("lookalike-srl", cell(1, "inputs", "(('Ben', 0, 0, 3, 0),)"), "some rows have 1 inputs, others 2"),
]


@pytest.mark.parametrize(("name", "edit", "told"), BROKEN)
def test_what_is_wrong_is_one_sentence_with_its_place(tmp_path, monkeypatch, name, edit, told):
    monkeypatch.chdir(tmp_path)
    folder = edited(tmp_path, name, edit)
    with pytest.raises(UserError) as error:
        read_set(folder)
    assert str(error.value).startswith(f"{folder}/samples.csv") and told in str(error.value)
    assert str(error.value).count("\n") == 0 and str(error.value).endswith(".")
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [("SENTENCE", "POETRY", "POETRY is no type"), ("num_labels: 2", "num_labels: two", "num_labels")],
)
def test_a_wrong_setting_is_told(tmp_path, old, new, told):
    with pytest.raises(UserError, match="config-none.yaml") as error:
        read_set(edited(tmp_path, "blimp-causative", lambda rows: None, {old: new}))
    assert told in str(error.value)


def test_columns_that_nobody_needs_may_be_missing_or_more(tmp_path):
    def edit(rows):
        for column in ("string_label", "topic", "org_label"):
            without(column)(rows)
        for number, row in enumerate(rows):
            row.insert(0, "" if number == 0 else str(number))
            row.append("note")

    assert read_set(edited(tmp_path, "blimp-causative", edit)).rows == read_set(DATA / "blimp-causative").rows


def test_a_folder_without_sets_and_a_name_twice_are_told(tmp_path):
    with pytest.raises(UserError, match="no folder in it has a samples.csv"):
        names_below([tmp_path])
    for name in ("mean", "two words"):
        folder = tmp_path / "named" / name
        shutil.copytree(DATA / "lookalike-pos", folder)
        with pytest.raises(UserError, match="rename it"):
            names_below([folder.parent])
        shutil.rmtree(folder)
    for one in ("a", "b"):
        shutil.copytree(DATA / "lookalike-pos", tmp_path / one / "lookalike-pos")
    with pytest.raises(UserError, match="have the same name"):
        names_below([tmp_path])


def test_means_per_subfield_are_those_of_the_published_leaderboard():
    published = read_csv(DATA / "subfield_means.csv")
    rows = read_csv(ROOT / "resources" / "reference" / "holmes.csv")
    subfields = {row["dataset"]: row["subfield"] for row in rows}
    assert set(published_probes()) == {row["model"] for row in published}
    for row in published:
        values = {name: published_value(row["model"], 1, name) for name in subfields}
        mean, count = subfield_means(values, subfields)[row["subfield"]]
        assert count == int(row["datasets"]) and mean == pytest.approx(float(row["mean"]), abs=1e-6)
