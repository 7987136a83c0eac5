"""Batch and Files routes for the loopback server, which misbehave as they are told."""

import json
import re
import threading
from collections import Counter

from openai_server import OpenAIServer, Reply, completion, error

LIVE = ("validating", "in_progress", "finalizing", "cancelling")


class BatchServer(OpenAIServer):
    """Answers every line of a batch with `reply(body)`: text or (status, error body), after `looks` looks at it.

    `endings`: for each batch in turn how it ends: status, answered (share of its lines), errors (of a failed batch),
    mangle (a function from output lines to output lines). `instead`: stage → replies that are sent first in its place.
    `hold`: a stage at which the server stops answering and sets `held`; upload and create do nothing before it,
    uploaded and created have done their work. `limit`: rows that may be under way at a time. `twice`: requests that
    stood in two live batches.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.files, self.batches, self.looked = {}, {}, Counter()
        self.looks, self.endings, self.instead, self.hold, self.limit = 1, [], {}, None, None
        self.held, self.twice, self.calls = threading.Event(), [], Counter()
        self.routes |= {
            "POST /v1/files": self.upload,
            "GET /v1/files/([^/]+)/content": self.content,
            "POST /v1/batches": self.create,
            "GET /v1/batches": lambda call: self.staged("list") or Reply(self.listed()),
            "GET /v1/batches/([^/]+)": self.look,
        }

    def staged(self, stage):
        """Return what is sent in place of the stage's work, None for nothing."""
        self.calls[stage] += 1
        if self.hold == stage:
            self.held.set()
            return Reply({}, delay=3600)
        return self.instead[stage].pop(0) if self.instead.get(stage) else None

    def listed(self):
        return {"object": "list", "data": list(self.batches.values())[::-1], "has_more": False}

    def stored(self, data):
        name = f"file-{len(self.files)}"
        self.files[name] = data
        return name

    def upload(self, call):
        if instead := self.staged("upload"):
            return instead
        assert re.search(rb'name="purpose"\r\n\r\nbatch\r\n', call.body)
        data = re.search(rb'name="file"[^\n]*\r\n(?:[^\r]+\r\n)*\r\n(.*?)\r\n--', call.body, re.DOTALL)[1]
        name = self.stored(data)
        uploaded = {"id": name, "object": "file", "bytes": len(data), "created_at": 0, "purpose": "batch"}
        return self.staged("uploaded") or Reply(uploaded | {"filename": "x.jsonl", "status": "processed"})

    def create(self, call):
        if instead := self.staged("create"):
            return instead
        asked = json.loads(call.body)
        keys = self.keys(asked["input_file_id"])
        live = [batch for batch in self.batches.values() if batch["status"] in LIVE]
        for batch in live:
            self.twice += set(keys) & set(self.keys(batch["input_file_id"]))
        if self.limit is not None and len(keys) + sum(batch["request_counts"]["total"] for batch in live) > self.limit:
            return error(429, "Enqueued token limit reached", "token_limit_exceeded")
        batch = {
            "id": f"batch-{len(self.batches)}",
            "object": "batch",
            "created_at": 0,
            "status": "in_progress",
            "request_counts": {"completed": 0, "failed": 0, "total": len(keys)},
        }
        self.batches[batch["id"]] = batch | asked
        return self.staged("created") or Reply(self.batches[batch["id"]])

    def lines(self, file):
        return [json.loads(line) for line in self.files[file].splitlines()]

    def keys(self, file):
        return [entry["custom_id"] for entry in self.lines(file)]

    def look(self, call):
        if instead := self.staged("poll"):
            return instead
        batch = self.batches.get(call.groups[0])
        if batch is None:
            return error(404, "No batch found")
        self.looked[batch["id"]] += 1
        if batch["status"] in LIVE and self.looked[batch["id"]] > self.looks:
            self.end(batch, **(self.endings.pop(0) if self.endings else {}))
        return Reply(batch)

    def end(self, batch, status="completed", answered=1.0, errors=(), mangle=lambda lines: lines):
        """Answer a share of the lines; the rest of an expired batch stand in the error file."""
        batch |= {"status": status, "errors": {"object": "list", "data": list(errors)}}
        entries = self.lines(batch["input_file_id"])
        count = 0 if errors else round(answered * len(entries))
        good, bad = [], []
        for entry in entries[:count]:
            reply = self.reply(entry["body"])
            status_code, body = reply if isinstance(reply, tuple) else (200, completion(entry["body"], reply))
            if status_code == 200:
                self.paid.append(entry["body"])
            line = {"id": "x", "custom_id": entry["custom_id"], "error": None}
            line["response"] = {"status_code": status_code, "request_id": "x", "body": body}
            (good if status_code == 200 else bad).append(json.dumps(line))
        if status == "expired":
            gone = {"code": "batch_expired", "message": "not executed before the completion window expired"}
            for entry in entries[count:]:
                bad.append(json.dumps({"custom_id": entry["custom_id"], "response": None, "error": gone}))
        for kind, lines in (("output_file_id", mangle(good)), ("error_file_id", bad)):
            batch[kind] = self.stored("\n".join(lines).encode()) if lines else None
        batch["request_counts"] |= {"completed": len(good), "failed": len(bad)}

    def content(self, call):
        return self.staged("content") or Reply(self.files[call.groups[0]])
