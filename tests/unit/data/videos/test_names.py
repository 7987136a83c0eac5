"""A video's odd name fails its row alone, and a name is found however its letters are composed."""

import os
import unicodedata

import pytest
from moult.data.videos.attach import _listing, find_video


@pytest.mark.parametrize(
    "name", ["v" * 300 + ".mp4", "a\0b.mp4", "/".join(["d" * 100] * 50), "\ud83d", "../x", "//x", "~root/x.mp4"]
)
def test_an_odd_name_is_a_reason(tmp_path, name):
    path, reason = find_video(tmp_path, [name])
    assert path is None and reason.startswith("the video ")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_is_found_however_its_letters_are_composed(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    (tmp_path / unicodedata.normalize(form, "é.mp4")).touch()
    assert find_video(tmp_path, [unicodedata.normalize(other, "é.mp4")])[1] is None


def test_a_name_that_is_not_utf_8_beside_the_videos_changes_nothing(tmp_path):
    (tmp_path / "a.mp4").touch()
    open(os.fsencode(tmp_path) + b"/\xff.mp4", "w").close()
    assert _listing(tmp_path) == _listing(tmp_path)
