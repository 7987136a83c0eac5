"""Pins are looked up and recorded, never invented."""

import hashlib
import http.server
import threading

import pytest
import yaml
from moult.base.files import read_json
from moult.config import pins

BODY = b"id\ttext\tlabel\n1\thi\tpositive\n"


@pytest.fixture
def url():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/a.tsv" else 404)
            self.end_headers()
            self.wfile.write(BODY if self.path == "/a.tsv" else b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def config(tmp_path, *urls):
    files = {split: {"url": url, "sha256": None} for split, url in zip(("train", "test"), urls, strict=False)}
    raw = {"name": "x", "datasets": [{"name": "d", "format": "mmla", "files": files, "labels": "MOSI"}]}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(raw))
    return tmp_path / "x.yaml"


def test_a_checksum_is_looked_up_once_and_recorded(tmp_path, url, monkeypatch):
    monkeypatch.setattr(pins, "PINS", tmp_path / "pins.json")
    path = config(tmp_path, f"{url}/a.tsv")
    assert pins.main(path) == 0
    assert read_json(tmp_path / "pins.json") == {f"{url}/a.tsv": hashlib.sha256(BODY).hexdigest()}
    monkeypatch.setattr(pins, "look_up", lambda *_: pytest.fail("asked again"))
    assert pins.main(path) == 0


def test_what_cannot_be_looked_up_is_told_and_the_rest_recorded(tmp_path, url, monkeypatch, capsys):
    monkeypatch.setattr(pins, "PINS", tmp_path / "pins.json")
    assert pins.main(config(tmp_path, f"{url}/gone.tsv", f"{url}/a.tsv")) == 1
    assert list(read_json(tmp_path / "pins.json")) == [f"{url}/a.tsv"]
    assert f"{url}/gone.tsv: cannot be looked up" in capsys.readouterr().err


def test_a_source_without_a_checksum_is_refused_when_built(tmp_path, url):
    from moult.base.errors import UserError
    from moult.data.fetch import fetch_dataset

    source = {"kind": "url", "split": "train", "index": 0, "basename": "a.tsv", "sha256": None, "url": f"{url}/a.tsv"}
    with pytest.raises(UserError, match="`sha256` is null; run `make pin`"):
        fetch_dataset([source], [], tmp_path / "raw")
    fetch_dataset([source | {"sha256": hashlib.sha256(BODY).hexdigest()}], [], tmp_path / "raw")
    assert (tmp_path / "raw" / "train" / "00-a.tsv").read_bytes() == BODY
