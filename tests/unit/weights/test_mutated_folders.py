"""What stands in a model's folder is not believed: a file with odd values is a model, or one sentence."""

import copy
import json
import os
import random

import pytest
from moult.base.errors import UserError
from moult.base.outside import in_a_sentence
from moult.weights.fetch import _stated_license, fetch_model
from pico import build_pico_model

SOAK = "MOULT_SOAK" in os.environ
ODD = [
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    "",
    "x",
    "\ud83d",
    "a\x00b",
    [],
    {},
    [[]],
    {"": {}},
    [None],
    "1" * 500,
    "\u202e",
    0.5,
]
ODD += [{"content": "x"}, ["x"] * 3, "../../x", {"content": None}, 10**9]


def mutated(text, chance):
    """Return a JSON document in which one or two places are not what they should be, or the text is cut or filled."""
    if chance.random() < 0.15:
        at = chance.randrange(len(text))
        return (
            text[:at]
            + chance.choice(["", "[" * 5000, '"', "\\ud83d", "\x00", "9" * 5000])
            + text[at + chance.choice([0, 1, 40]) :]
        )
    value = json.loads(text)
    for _ in range(chance.randint(1, 2)):
        place, holder = value, None
        while isinstance(place, dict | list) and place and (holder is None or chance.random() < 0.75):
            key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            holder, place = (place, key), place[key]
        if holder:
            holder[0][holder[1]] = copy.deepcopy(chance.choice(ODD))
    return json.dumps(value)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = build_pico_model(tmp_path_factory.mktemp("sound") / "model")
    (folder / "added_tokens.json").write_text("{}")
    return folder


def test_mutated_documents_are_models_or_a_sentence(sound, tmp_path):
    names = sorted(path.name for path in sound.glob("*.json"))
    texts = {name: (sound / name).read_text() for name in names}
    weights = (sound / "model.safetensors").read_bytes()
    refused = 0
    for seed in range(600 if SOAK else 24):
        chance, folder = random.Random(seed), tmp_path / str(seed)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(weights)
        name = names[seed % len(names)]
        for other in names:
            (folder / other).write_text(
                mutated(texts[other], chance) if other == name else texts[other], errors="surrogateescape"
            )
        try:
            facts = fetch_model({"path": str(folder)}, tmp_path / "target" / str(seed), None)
        except UserError as error:
            refused += 1
            told = str(error)
            assert str(folder) in told and "\n" not in told and len(told) < 1500, told
            told.encode()
        else:
            json.dumps(facts, ensure_ascii=False).encode()
    assert refused >= 5


@pytest.mark.parametrize(
    ("matter", "stated"),
    [
        ("license: mit", "mit"),
        ("a: &x [1]\nlicense: apache-2.0 # so it is\nb: *x", "apache-2.0"),
        ("license:\n- mit\n- cc0-1.0\ntags: [x]", "mit, cc0-1.0"),
        ("license: R&D, see LICENSE", "R&D, see LICENSE"),
        ("license: {a: 1}", None),
        ("license: " + "[" * 5000, None),
        ("license: *nothing", None),
        ("license: !!python/object/apply:os.system [true]", None),
        ("license: 2026-13-45", None),
        ("license: \x00", None),
        ("license: " + "x" * 10_000, "x" * 100),
        ("tags: [license]", None),
        ("a: &a [x, x]\nb: &b [*a, *a]\nlicense: [*b, *b]", None),
    ],
)
def test_the_front_matter_of_a_readme_is_read_or_left(tmp_path, matter, stated):
    (tmp_path / "README.md").write_text(f"---\n{matter}\n---\n# A model\n")
    assert _stated_license(tmp_path) == stated


def test_a_panic_becomes_a_sentence():
    """As those of Rust libraries, it is no Exception."""

    class Panic(BaseException):
        pass

    with (
        pytest.raises(UserError, match="the file: cannot be read .Panic: called unwrap.; look at it"),
        in_a_sentence("the file", "look at it"),
    ):
        raise Panic("called unwrap")
    for passing in (KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")):
        with pytest.raises((KeyboardInterrupt, MemoryError, OSError)), in_a_sentence("the file", "look at it"):
            raise passing
