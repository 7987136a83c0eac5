"""Manifests vouch for files, and name the scratch of the jobs that read them."""

import json
import os
import shutil
import time

import pytest
from moult.base.errors import UserError
from moult.jobs.job import Job
from moult.jobs.manifest import check_manifest, write_manifest


def manifest(folder, text="abc"):
    (folder / "m").mkdir(exist_ok=True)
    (folder / "m" / "weights").write_text(text)
    (folder / "m" / ".snakemake_timestamp").write_text(str(os.urandom(4)))
    path = folder / "m.manifest.json"
    write_manifest(path, rule="r", outputs=[folder / "m"], parents=[], recipe={"a": 1}, facts={"rows": 3})
    return path


def test_a_manifest_is_the_same_for_the_same_work(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    documents = [json.loads(manifest(tmp_path / name).read_text()) for name in "ab"]
    assert documents[0]["content"] == documents[1]["content"]
    assert list(documents[0]["files"]) == ["m/weights"]


def test_a_manifest_knows_a_cut_and_a_missing_file(tmp_path):
    path = manifest(tmp_path)
    assert check_manifest(path)["facts"] == {"rows": 3}
    (tmp_path / "m" / "weights").write_text("ab")
    with pytest.raises(UserError, match="weights: has 2 bytes, .* says 3"):
        check_manifest(path)
    (tmp_path / "m" / "weights").unlink()
    with pytest.raises(UserError, match="weights: is missing"):
        check_manifest(path)
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        check_manifest(path)


def test_a_folder_that_is_gone_is_a_flaw_to_a_job_that_reads_it_alone(tmp_path):
    path = manifest(tmp_path)
    shutil.rmtree(tmp_path / "m")
    content = json.loads(path.read_text())["content"]
    asking = {"rule": "r", "name": "n", "params": {}, "parents": [str(path)]}
    assert Job(**asking, inputs=[str(path)]).parents == {str(path): content}
    with pytest.raises(UserError, match="weights: is missing"):
        Job(**asking, inputs=[str(path), str(tmp_path / "m")])
    (tmp_path / "m").mkdir()
    with pytest.raises(UserError, match="weights: is missing"):
        Job(**asking, inputs=[str(path)])


def test_a_manifest_knows_other_bytes_of_equal_size_in_small_files(tmp_path, monkeypatch):
    path = manifest(tmp_path)
    (tmp_path / "m" / "weights").write_text("abd")
    with pytest.raises(UserError, match="weights: has other bytes than"):
        check_manifest(path)
    monkeypatch.setattr("moult.jobs.manifest.HASHED", 2)
    check_manifest(path)


def test_scratch_is_named_by_recipe_and_data(tmp_path):
    path = manifest(tmp_path)
    places = {
        Job("train", "x", {"recipe": {"lr": 1}}, [path]).scratch,
        Job("train", "x", {"recipe": {"lr": 2}}, [path]).scratch,
    }
    manifest(tmp_path, "other data")
    places.add(Job("train", "x", {"recipe": {"lr": 1}}, [path]).scratch)
    assert len(places) == 3
    assert len({place.parent for place in places}) == 1


def test_every_byte_of_a_manifest_is_under_its_seal(tmp_path):
    path = manifest(tmp_path)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(UserError, match="m.manifest.json"):
            check_manifest(path)


def test_a_manifest_of_before_has_no_seal_and_is_taken(tmp_path):
    path = manifest(tmp_path)
    old = json.loads(path.read_text())
    del old["seal"]
    path.write_text(json.dumps(old, indent=2, sort_keys=True) + "\n")
    assert check_manifest(path)["facts"] == {"rows": 3}


def test_digests_of_the_users_files_name_no_place_and_tell_what_was_not_there(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("a")
    (tmp_path / "m").mkdir()
    path, used = tmp_path / "m.manifest.json", {str(tmp_path / "mine"): ["a", "b"]}

    def write(since):
        shared = {"rule": "r", "outputs": [tmp_path / "m"], "parents": [], "recipe": {}, "facts": {}}
        write_manifest(path, **shared, used=used, since=since)

    write(time.time_ns())
    (local,) = check_manifest(path)["local"]
    assert local["b"] is None and len(local["a"]) == 64
    with pytest.raises(UserError, match="a: changed while it was read"):
        write(1)
