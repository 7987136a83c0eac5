"""A hub to publish to, on loopback: as much of its protocol as an upload asks for, with what it was sent.

Repositories are made, and seen by who has a token of theirs; small files come in the commit, large ones by git LFS: the
batch API says what is there, a file is put whole or in parts, and verified. A commit counts only where everything that
it names is there, and only upon the parent that it says.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

# Files of so many bytes and more go by LFS; of more than a part, in parts.
LARGE, PART = 4000, 40_000
# As the hub spells licences; it takes no other.
LICENCES = {"apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-nc-4.0", "llama3", "gemma", "unknown", "other"}


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """A repository: commits as (name, path → (content, whether it is in LFS)), large files by SHA-256."""

    private: bool
    commits: list = field(default_factory=lambda: [("0" * 40, {".gitattributes": (b"* -text\n", False)})])
    stored: dict = field(default_factory=dict)
    parts: dict = field(default_factory=dict)

    @property
    def files(self):
        return self.commits[-1][1]


class PublishingHub:
    """The hub: `tokens` are who may write to which owners; `repos` what there is; `received` (what, bytes) in order.

    cut(what): called before a file's bytes are kept, with its SHA-256; where it is true the connection breaks.
    ignores: names that its .gitignore leaves out.
    """

    def __init__(self, tokens):
        self.tokens, self.repos, self.received, self.asked = tokens, {}, [], []
        self.cut, self.ignores, self.lock = (lambda what: False), set(), threading.RLock()

    def __enter__(self):
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    hub = None

    def _serve(self):
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.asked.append((self.command, path, self.headers.get("Authorization")))
            for beginning, answer in (
                ("/api/repos/create", self._create),
                ("/api/validate-yaml", self._validate),
                ("/api/models/", self._model),
                ("/lfs/", self._keep),
            ):
                if path.startswith(beginning):
                    return answer(path.removeprefix(beginning), body)
            if path.endswith("/info/lfs/objects/batch"):
                return self._batch(path[1:].split(".git/")[0], json.loads(body))
        return self._answer(404, {"error": "no such route"})

    do_GET = do_POST = do_PUT = do_HEAD = _serve

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status, value, headers=()):
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {
            "Content-Length": str(len(content)),
            "Content-Type": "application/json",
            **dict(headers),
        }.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _may(self, repo):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return repo.split("/")[0] in self.hub.tokens.get(token, ())

    # ---------------------------------------------------------------- the API

    def _create(self, _, body):
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if not self._may(name):
            return self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        if name in self.hub.repos:
            return self._answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        self.hub.repos[name] = Repo(asked.get("visibility") == "private" or asked.get("private", False))
        return self._answer(200, {"url": f"{self.hub.url}/{name}"})

    def _validate(self, _, body):
        matter = json.loads(body)["content"].split("---\n")[1]
        named = next(line.split(": ", 1)[1] for line in matter.splitlines() if line.startswith("license: "))
        errors = [] if named in LICENCES else [{"message": f'"license" must be one of {sorted(LICENCES)}'}]
        return self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def _model(self, path, body):
        owner, name, *rest = path.split("/")
        repo, name = self.hub.repos.get(f"{owner}/{name}"), f"{owner}/{name}"
        if repo is None or (repo.private and not self._may(name)):
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if not rest:
            said = {"id": name, "sha": repo.commits[-1][0], "private": repo.private, "siblings": [], "tags": []}
            return self._answer(200, said)
        if rest[0] == "tree":
            files = dict(repo.commits).get(rest[1]) or repo.files
            return self._answer(200, [_entry(*one) for one in sorted(files.items())])
        if not self._may(name):
            return self._answer(403, {"error": "Forbidden: you must be authenticated with write rights"})
        return {"preupload": self._preupload, "commit": self._commit}[rest[0]](name, repo, body)

    def _preupload(self, name, repo, body):
        found = []
        for one in json.loads(body)["files"]:
            there = repo.files.get(one["path"])
            oid = there and (hashlib.sha256(there[0]).hexdigest() if there[1] else git_hash(there[0]))
            mode = "lfs" if one["size"] >= LARGE else "regular"
            ignored = one["path"] in self.hub.ignores
            found.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": ignored, "oid": oid})
        return self._answer(200, {"files": found})

    def _commit(self, name, repo, body):
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(repo.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", repo.commits[-1][0]) != repo.commits[-1][0]:
                return self._answer(412, {"error": "A commit has happened since. Please refresh and try again."})
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                self.hub.received.append((value["path"], len(content)))
                files[value["path"]] = content, False
            elif line["key"] == "lfsFile":
                if value["oid"] not in repo.stored:
                    return self._answer(400, {"error": f"LFS pointer points to {value['oid']}, which does not exist"})
                files[value["path"]] = repo.stored[value["oid"]], True
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = hashlib.sha1(repr((repo.commits[-1][0], sorted(files.items()))).encode()).hexdigest()
        repo.commits.append((oid, files))
        return self._answer(
            200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid, "pullRequestUrl": None}
        )

    # ---------------------------------------------------------------- git LFS

    def _batch(self, name, asked):
        if not self._may(name):
            return self._answer(403, {"error": "Forbidden"})
        repo, objects = self.hub.repos[name], []
        for one in asked["objects"]:
            place = f"{self.hub.url}/lfs/{name}/{one['oid']}"
            upload = {"href": place}
            if one["size"] > PART:
                numbers = range(1, -(-one["size"] // PART) + 1)
                upload["header"] = {"chunk_size": str(PART)} | {str(n): f"{place}/{n}" for n in numbers}
            actions = {"upload": upload, "verify": {"href": f"{place}/verify"}}
            objects.append(one if one["oid"] in repo.stored else one | {"actions": actions})
        return self._answer(200, {"transfer": "basic", "objects": objects})

    def _keep(self, path, body):
        owner, name, oid, *part = path.split("/")
        repo = self.hub.repos[f"{owner}/{name}"]
        if part == ["verify"]:
            there = repo.stored.get(oid)
            return self._answer(200 if there and len(there) == json.loads(body)["size"] else 404, {})
        if self.command == "POST":
            numbers = [one["partNumber"] for one in json.loads(body)["parts"]]
            content = b"".join(repo.parts[oid, str(number)] for number in numbers)
            return self._store(repo, oid, content)
        if self.hub.cut(oid):
            self.close_connection = True
            self.connection.close()
            return None
        self.hub.received.append((oid, len(body)))
        if not part:
            return self._store(repo, oid, body)
        repo.parts[oid, part[0]] = body
        return self._answer(200, {}, {"ETag": f'"{git_hash(body)}"'})

    def _store(self, repo, oid, content):
        if hashlib.sha256(content).hexdigest() != oid:
            return self._answer(422, {"error": "another hash"})
        repo.stored[oid] = content
        return self._answer(200, {})

    def log_message(self, *_):
        pass


def _entry(path, file):
    content, large = file
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
    sha256 = hashlib.sha256(content).hexdigest()
    return entry | ({"lfs": {"oid": sha256, "size": len(content), "pointerSize": 130}} if large else {})


@contextlib.contextmanager
def publishing_hub(monkeypatch, tokens):
    """Let huggingface_hub, in this process, find a hub that may be published to."""
    from huggingface_hub import constants

    with PublishingHub(tokens) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield hub
