"""Publishing to a hub on loopback: whole, once, on with it after a cut; and what is refused, in which words."""

import hashlib

import pytest
from hub_server import publishing_hub
from moult.base.errors import UserError
from moult.weights.card import write_model_card
from moult.weights.licences import refusals, spelt_by_hub
from moult.weights.publish import check_licences, hub_card, publish_model

RECIPE = {
    "model": "tuned",
    "hub": "me/tuned",
    "private": True,
    "license": "Apache-2.0",
    "ancestors": {},
    "permitted": [],
}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hf_canary_0123456789")
    with publishing_hub(monkeypatch, {"hf_canary_0123456789": {"me"}}) as running:
        yield running


@pytest.fixture
def model(tmp_path):
    """A folder like a model's: three shards, small files, a card."""
    folder = tmp_path / "tuned"
    folder.mkdir()
    for number in (1, 2, 3):
        (folder / f"model-{number:05}-of-00003.safetensors").write_bytes(bytes([number]) * (30_000 * number))
    (folder / "config.json").write_text("{}\n")
    write_model_card(folder, {"model": "tuned", "license": "Apache-2.0"})
    return folder


def files_of(folder):
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {name: {"sha256": hashlib.sha256(one).hexdigest(), "size": len(one)} for name, one in contents.items()}


def send(folder, **recipe):
    return publish_model(RECIPE | recipe, folder, files_of(folder), "MY_TOKEN", "Apache-2.0")


def test_a_repository_holds_the_model_and_nothing_is_sent_twice(hub, model):
    published = send(model)
    repo = hub.repos["me/tuned"]
    assert repo.private and published["private"]
    assert published["revision"] == repo.commits[-1][0]
    held = {name: content for name, (content, _) in repo.files.items() if name != ".gitattributes"}
    assert held.keys() == published["files"].keys() == files_of(model).keys()
    for name, content in held.items():
        if name != "README.md":
            assert content == (model / name).read_bytes()
    assert b"license: apache-2.0\n" in held["README.md"]
    assert sum(size for _, size in hub.received) == sum(len(content) for content in held.values())
    assert {token for *_, token in hub.asked} <= {"Bearer hf_canary_0123456789", None}

    hub.received.clear()
    assert send(model) == published
    assert hub.received == [] and len(repo.commits) == 2
    # A changed file goes alone.
    (model / "config.json").write_text('{"changed": true}\n')
    changed = send(model)
    assert [name for name, _ in hub.received] == ["config.json"]
    assert changed["revision"] == repo.commits[-1][0] != published["revision"]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_after_a_cut_it_goes_on_with_the_file_that_was_cut(hub, model, monkeypatch, at):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    shards = sorted(model.glob("*.safetensors"))
    hashes = [files_of(model)[shard.name]["sha256"] for shard in shards]
    hub.cut = lambda what: what == hashes[at - 1] and (at < 3 or len(hub.repos["me/tuned"].parts) >= 4)
    with pytest.raises(UserError, match=r"me/tuned: cannot be sent to .* what is there is not sent again"):
        send(model)
    assert hub.repos["me/tuned"].files.keys() == {".gitattributes"}, "no half model is seen"
    before, hub.cut = list(hub.received), lambda what: False
    hub.received.clear()
    send(model)
    whole = {what for what, _ in before} - {hashes[at - 1]}
    assert whole == set(hashes[: at - 1])
    assert not whole & {what for what, _ in hub.received}
    assert set(hashes[at - 1 :]) <= {what for what, _ in hub.received}


def test_what_another_model_left_there_goes_and_the_history_keeps_it(hub, model, caplog):
    send(model)
    repo = hub.repos["me/tuned"]
    others = {"model.safetensors": (b"old", False), "chat_template.jinja": (b"old", False), "NOTICE.txt": (b"n", False)}
    repo.commits.append(("1" * 40, repo.files | others))
    send(model)
    assert repo.files.keys() == {*files_of(model), ".gitattributes", "NOTICE.txt"}
    assert "model.safetensors is deleted there" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("no token", "me/tuned: the variable MY_TOKEN is not set; export it"),
        ("another's", "you/tuned: the token in MY_TOKEN may not write there"),
        ("public", "me/tuned: everybody may see this repository; make it private on its page, or write `private: fal"),
        ("ignored", "me/tuned: does not hold config.json; look for a .gitignore in it"),
        ("changed here", "config.json: is not what it was when it was made"),
        ("changed there", "me/tuned: was changed by somebody else meanwhile"),
        ("unknown licence", "me/tuned: cannot be sent to .*license.* must be one of"),
        ("offline", "me/tuned: cannot be sent to .*offline"),
    ],
)
def test_what_is_refused(hub, model, monkeypatch, wrong, sentence):
    recipe, files, licence = dict(RECIPE), files_of(model), "Apache-2.0"
    if wrong == "no token":
        monkeypatch.delenv("MY_TOKEN")
    elif wrong == "another's":
        recipe["hub"] = "you/tuned"
    elif wrong == "public":
        publish_model(recipe | {"private": False}, model, files, "MY_TOKEN", licence)
    elif wrong == "ignored":
        hub.ignores = {"config.json"}
    elif wrong == "changed here":
        files["config.json"] = files["config.json"] | {"sha256": "0" * 64}
    elif wrong == "unknown licence":
        monkeypatch.setattr("hub_server.LICENCES", set())
    elif wrong == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    else:

        def meanwhile(what):
            hub.repos["me/tuned"].commits.append(("2" * 40, {}))
            return False

        hub.cut = meanwhile
    hub.received.clear()
    with pytest.raises(UserError, match=sentence) as caught:
        publish_model(recipe, model, files, "MY_TOKEN", licence)
    assert "hf_canary" not in str(caught.value)
    if wrong in ("another's", "public", "unknown licence", "offline"):
        assert hub.received == []


def test_a_card_has_its_licence_as_the_hub_spells_it():
    card = "---\nlibrary_name: transformers\nlicense: {}\n---\n\n# tuned\n\nlicense: Llama-3\n"
    assert hub_card(card.format("Llama-3"), "Llama-3") == card.format("llama3")
    assert hub_card(card.format("Acme 1.0"), "Acme 1.0") == card.format("other\nlicense_name: acme-1.0")


@pytest.mark.parametrize(
    ("own", "parent", "said"),
    [
        ("Apache-2.0", "MIT", None),
        ("CC-BY-NC-4.0", "CC-BY-4.0", None),
        ("Llama-3", "llama3", None),
        ("GPL-3.0-or-later", "gpl-3.0", None),
        ("CC-BY-NC-SA-4.0", "CC-BY-NC-4.0", None),
        (None, "MIT", "its licence is not stated"),
        ("unknown", "MIT", "its licence is not stated"),
        ("Acme-1.0", "MIT", "it is under Acme-1.0, of which Moult does not know what it permits"),
        ("MIT", None, "the licence of base, of which it is made, is not stated"),
        ("MIT", "other", "the licence of base, of which it is made, is not stated"),
        ("MIT", "All rights reserved", "of which Moult does not know what it permits"),
        ("MIT", "CC-BY-ND-4.0", "permits no changed copies"),
        ("CC-BY-NC-ND-4.0", "CC-BY-NC-ND-4.0", "permits no changed copies"),
        ("MIT", "GPL-3.0", "which what is made of it keeps; its own is MIT"),
        ("MIT", "Llama-3", "which what is made of it keeps; its own is MIT"),
        ("CC-BY-4.0", "CC-BY-SA-4.0", "which what is made of it keeps"),
        ("Apache-2.0", "CC-BY-NC-4.0", "which permits no commercial use; its own, Apache-2.0, does"),
        ("llama3", "CC-BY-NC-4.0", "which permits no commercial use"),
    ],
)
def test_licences(own, parent, said):
    found = list(refusals(own, {"base": parent}, []))
    assert len(found) == bool(said), found
    assert not said or said in found[0]
    # What one has read and may do, is one's own.
    known = [name for name in (own, parent) if name and spelt_by_hub(name) not in ("unknown", "other")]
    assert list(refusals("MIT", {"base": parent}, known)) == [] or parent in (None, "other")


def test_two_parents_whose_licences_exclude_each_other_make_nothing_to_publish():
    for own in ("llama3", "gemma", "MIT"):
        assert list(refusals(own, {"a": "llama3", "b": "gemma"}, []))


def test_the_word_of_a_fetched_model_s_own_card_counts():
    recipe = RECIPE | {"license": "MIT", "ancestors": {"base": None}}
    check_licences(recipe, {"base": "apache-2.0"})
    with pytest.raises(UserError, match=r"tuned is not published: base, of which it is made, is under cc-by-nc-4.0"):
        check_licences(recipe, {"base": "cc-by-nc-4.0"})
    with pytest.raises(UserError, match="base states cc-by-nc-4.0 in its card, and the config says MIT"):
        check_licences(recipe | {"ancestors": {"base": "MIT"}}, {"base": "cc-by-nc-4.0"})
    with pytest.raises(UserError, match="the licence of base, of which it is made, is not stated"):
        check_licences(recipe, {"base": None})
