"""A canary for a key: it is sent to the endpoint and the hub, and stands nowhere else, plain or encoded."""

import base64
import http.server
import re
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from openai_server import OpenAIServer

CANARY = "sk-canary/+0123456789abcdef=ZZTOP"


def spellings(secret):
    """Return a secret as it might be written down: as it is, in base64 at any offset, in hex, in a URL, in JSON."""
    plain = secret.encode()
    found = {plain, plain[::-1], plain.hex().encode(), urllib.parse.quote(secret, safe="").encode()}
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # The first and the last group depend on the neighbours.
            found.add(encode(b"\0" * shift + plain)[4:-4])
    found.add(secret.replace("/", "\\/").encode())
    return found


def leaks(folder, texts):
    """Return where a spelling of the canary stands: files below the folder, and named texts."""
    files = {path.as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    everything = files | {name: text.encode(errors="surrogateescape") for name, text in texts.items()}
    return [name for name, content in everything.items() if any(form in content for form in spellings(CANARY))]


class Watch(threading.Thread):
    """Collects the command lines of all processes while a build runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seen, self.over = set(), threading.Event()

    def run(self):
        while not self.over.is_set():
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(entry.read_bytes())
                except OSError:
                    continue
            time.sleep(0.01)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


def echoing_reply():
    """Return a reply function that throws the key back in error messages, as real servers do, then answers."""
    errors = iter([400, 500, 429, 500])

    def reply(body):
        status = next(errors, None)
        message = f"Incorrect API key provided: {CANARY}. Authorization: Bearer {CANARY}"
        return (status, {"error": {"message": message}}) if status else "an answer"

    return reply


def test_the_searcher_finds_a_canary(tmp_path):
    """Else the tests below could not fail."""
    for number, form in enumerate(sorted(spellings(CANARY))):
        (tmp_path / str(number)).write_bytes(b"x" + form + b"y")
    (tmp_path / "bearer").write_bytes(base64.b64encode(f"Bearer {CANARY} and more".encode()))
    assert len(leaks(tmp_path, {"out": f"said {CANARY}"})) == len(spellings(CANARY)) + 2


@pytest.mark.parametrize("ending", ["answered", "refused"])
def test_a_key_is_sent_and_kept_nowhere(unbuilt, monkeypatch, ending):
    monkeypatch.setenv("TEACHER_KEY", CANARY)
    sent = []
    refusal = (401, {"error": {"message": f"Incorrect API key provided: {CANARY}", "code": "invalid_api_key"}})
    with OpenAIServer(echoing_reply() if ending == "answered" else lambda body: refusal) as server:
        route = "POST /v1/chat/completions"
        server.routes = {route: lambda call: sent.append(call.headers["authorization"]) or server.chat(call)}
        config = unbuilt.config
        config["endpoints"][1] |= {"url": server.url, "key": "TEACHER_KEY", "retries": 1}
        unbuilt.config = config
        with Watch() as watch:
            runs = [
                unbuilt.snakemake("results/pico/corpora/distilled.jsonl", "--verbose", "--printshellcmds"),
                unbuilt.snakemake("results/pico/corpora/distilled.jsonl", "--dry-run", "--forceall", "--verbose"),
                unbuilt.snakemake("--detailed-summary"),
            ]
    assert (runs[0].returncode == 0) == (ending == "answered"), runs[0].stdout + runs[0].stderr
    assert sent and set(sent) == {f"Bearer {CANARY}"}
    texts = {f"output {number}": run.stdout + run.stderr for number, run in enumerate(runs)}
    texts |= {f"argv {number}": argv.decode(errors="replace") for number, argv in enumerate(watch.seen)}
    assert leaks(unbuilt.path, texts) == []


def test_a_hub_token_is_sent_and_kept_nowhere(unbuilt, tmp_path, monkeypatch):
    sent = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            sent.append(self.headers.get("Authorization"))
            message = f"token {CANARY} may not read this".encode()
            self.send_response(403)
            self.send_header("X-Error-Message", message.decode())
            self.send_header("Content-Length", str(len(message)))
            self.end_headers()
            self.wfile.write(message if self.command == "GET" else b"")

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    monkeypatch.setenv("HUB_TOKEN", CANARY)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    config = unbuilt.config
    config["models"][0] = {
        "name": "base",
        "fetch": {"hub": "owner/gated", "revision": "0" * 40, "token": "HUB_TOKEN"},
        "parameters": 0.001,
    }
    unbuilt.config = config
    inherited = unbuilt.environment
    unbuilt.environment = lambda: inherited() | {"HF_HUB_OFFLINE": "0"}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub, Watch() as watch:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_address[1]}")
        run = unbuilt.snakemake("results/pico/models/base", "--verbose")
        hub.shutdown()
    assert run.returncode != 0 and re.search("fetch_model base: owner/gated: ", run.stderr), run.stderr
    assert f"Bearer {CANARY}" in sent
    argv = {f"argv {number}": words.decode(errors="replace") for number, words in enumerate(watch.seen)}
    assert leaks(unbuilt.path, {"output": run.stdout + run.stderr} | argv) == []
    assert leaks(tmp_path / "hub", {}) == []
