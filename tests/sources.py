"""Where models come from in tests: wheels that pip finds in a folder, and a hub on loopback."""

import contextlib
import hashlib
import http.server
import json
import threading
import zipfile

REVISION = "0123456789abcdef0123456789abcdef01234567"


def write_gguf(model, path):
    """Write a pico Llama as an unquantised GGUF, the way llama.cpp's converter does."""
    import gguf
    import torch
    from safetensors.torch import load_file

    config = json.loads((model / "config.json").read_text())
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("pico")
    writer.add_license("apache-2.0")
    writer.add_context_length(512)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"])
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    # The pico tokenizer is smaller than its embedding table, GGUF wants them equal.
    tokens += [f"<unused{number}>" for number in range(config["vocab_size"] - len(tokens))]
    control = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in control or token.startswith("<unused") else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template((model / "chat_template.jinja").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, weight in load_file(model / "model.safetensors").items():
        count = heads.get(name.split(".")[-2])
        if count:
            rows, columns = weight.shape
            weight = weight.view(count, 2, rows // count // 2, columns).transpose(1, 2).reshape(rows, columns)
        writer.add_tensor(names.get_name(name, (".weight",)), weight.to(torch.float32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(shelf, content):
    """Put a wheel with `content` as its GGUF into the folder `shelf`; return the source that names it."""
    with zipfile.ZipFile(shelf / "pico_gguf-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("pico_gguf/pico.gguf", content)
        info = "pico_gguf-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: pico-gguf\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    sha256 = hashlib.sha256(content).hexdigest()
    return {"package": "pico-gguf", "version": "1.0", "file": "pico_gguf/pico.gguf", "sha256": sha256}


@contextlib.contextmanager
def serving(handler):
    """Serve requests with a handler class on loopback; yield the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's API as a snapshot download asks for."""

    folder, requests = None, []
    sent = staticmethod(lambda content: content)  # what of a file's bytes arrives; tests damage it

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        Hub.requests.append((path, self.headers.get("authorization")))
        if "org/gated" in path and self.headers.get("authorization") != "Bearer hf_secret":
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        if "org/none" in path:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if REVISION not in path:
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if path.startswith("/api/"):
            return self.answer(200, json.dumps([self.entry(file) for file in self.files()]).encode())
        file = self.folder / path.split(f"/resolve/{REVISION}/")[1]
        entry, content = self.entry(file), self.sent(file.read_bytes())
        return self.answer(200, content, {"ETag": entry["oid"], "X-Repo-Commit": REVISION})

    def files(self):
        return sorted(file for file in self.folder.rglob("*") if file.is_file())

    def entry(self, file):
        content = file.read_bytes()
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"type": "file", "path": file.relative_to(self.folder).as_posix(), "size": len(content), "oid": oid}

    def answer(self, status, content, headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving_hub(folder, cache, monkeypatch):
    """Let huggingface_hub find a hub that serves one model, and keep what it fetches in `cache`."""
    from huggingface_hub import constants

    monkeypatch.setattr(Hub, "folder", folder)
    with serving(Hub) as endpoint:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield
