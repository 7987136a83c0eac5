"""Downloads that fail at first, or for good; files of a hub's cache against their names."""

import hashlib
import http.server

import pytest
from moult.base import downloads
from moult.base.downloads import check_hub_file, fetch_url
from moult.base.errors import UserError
from sources import serving


@pytest.fixture
def web(monkeypatch):
    """A server that answers with one status after another, then with a file; yields its address and what it gave."""
    monkeypatch.setattr(downloads, "WAITS", (0, 0, 0))

    class Server(http.server.BaseHTTPRequestHandler):
        statuses, given = [], []

        def do_GET(self):
            status = self.statuses.pop(0) if self.statuses else 200
            self.given.append(status)
            if status == "hang up":
                return
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"a table")

        def log_message(self, *args):
            pass

    with serving(Server) as address:
        yield address, Server


@pytest.mark.parametrize("statuses", [[], [503], [429, "hang up", 500]])
def test_what_passes_is_tried_again(web, tmp_path, statuses):
    web[1].statuses[:] = statuses
    fetch_url(web[0], tmp_path / "table")
    assert (tmp_path / "table").read_bytes() == b"a table" and web[1].given == [*statuses, 200]


@pytest.mark.parametrize(("statuses", "asked"), [([403], 1), ([404], 1), ([500] * 9, 4)])
def test_what_stays_is_told(web, tmp_path, statuses, asked):
    web[1].statuses[:] = statuses
    with pytest.raises(UserError, match=f"{web[0]}: cannot be fetched .HTTP Error {statuses[0]}"):
        fetch_url(web[0], tmp_path / "table")
    assert len(web[1].given) == asked


@pytest.mark.parametrize(
    "name",
    [
        hashlib.sha256(b"x").hexdigest(),  # in LFS or Xet
        hashlib.sha1(b"blob 1\0x").hexdigest(),  # git's own
        hashlib.sha1(b"x").hexdigest(),  # of some mirrors
        "W-whatever",
    ],
)
def test_a_file_of_the_hubs_cache_is_what_its_name_says(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "link").symlink_to(name)
    assert check_hub_file(tmp_path / "link") == tmp_path / name
    (tmp_path / name).write_bytes(b"y")
    if name == "W-whatever":
        assert check_hub_file(tmp_path / "link") == tmp_path / name
    else:
        with pytest.raises(UserError, match=f"{name}: is not the link of the hub"):
            check_hub_file(tmp_path / "link")
