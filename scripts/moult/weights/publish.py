"""Publishing: a model and its card go to a repository of a hub, whole, and nothing that is there is sent again."""

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import Field

from moult.base.errors import UserError
from moult.base.files import write_json
from moult.base.outside import one_line
from moult.base.rows import Facts, FileFacts, Recipe
from moult.base.secrets import key_of, redacted
from moult.base.section import Hub, Line, Section, Variable
from moult.base.stage import Job
from moult.jobs.manifest import artefact, read_manifest
from moult.weights.fetch import WEIGHTS_OF_OTHERS
from moult.weights.headers import TOKENIZER_FILES
from moult.weights.licences import is_known, is_stated, refusals, spelt_by_hub

# Raise when what is published already should be published again.
VERSION = 1
# What would make another model of ours, were it left over from one that was there before.
OF_A_MODEL = (
    *("*.safetensors", "*.index.json", *WEIGHTS_OF_OTHERS),
    *TOKENIZER_FILES,
    *("config.json", "generation_config.json", "*processor_config.json"),
)
logger = logging.getLogger(__name__)


class Publish(Section):
    """Where the model may be published, if you ask for it."""

    hub: Hub = Field(description="Repository on the Hugging Face hub, owner/name; it is made if it is not there.")
    private: bool = Field(True, description="Whether nobody but its owner may see the repository.")
    token: Variable = Field(
        "HF_TOKEN", description="Environment variable with your hub token, which may write to the repository."
    )
    permitted: list[Line] = Field(
        [],
        description="Licences that you have read and that permit it, of which Moult does not know that they do.",
    )


def check_licences(recipe: Recipe, stated: Mapping[str, str | None]) -> None:
    """Raise a UserError where a licence forbids to publish a model, with a sentence for each.

    recipe: model, license, ancestors (model that it is made of → licence in the config, or None), permitted. stated:
    model → licence that its own card states, of fetched ones, the model itself among them.
    """
    own = recipe["license"] or stated.get(recipe["model"])
    wrong = [
        f"{name} states {stated[name]} in its card, and the config says {said}; correct `license`"
        for name, said in {**recipe["ancestors"], recipe["model"]: recipe["license"]}.items()
        if said and is_stated(stated.get(name)) and spelt_by_hub(said) != spelt_by_hub(str(stated[name]))
    ]
    ancestors = {name: said or stated.get(name) for name, said in recipe["ancestors"].items()}
    if wrong := [*wrong, *refusals(own, ancestors, recipe["permitted"])]:
        raise UserError("\n".join(f"{recipe['model']} is not published: {reason}." for reason in wrong))


class Content:
    """What a file of a repository is to hold: its path here, or its bytes, with SHA-256 and size in bytes."""

    def __init__(self, source: Path | bytes, sha256: str, size: int) -> None:
        self.source, self.sha256, self.size = source, sha256, size

    def is_held_by(self, entry: Any) -> bool:
        """Whether a file of a repository (`RepoFile`, or None) has it: of large ones it has the SHA-256."""
        if entry is None or entry.size != self.size:
            return False
        if entry.lfs:
            return entry.lfs.sha256 == self.sha256
        content = self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        return entry.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def publish_model(
    recipe: Recipe, folder: str | Path, files: Mapping[str, FileFacts], variable: str, license: str
) -> Facts:
    """Bring a repository to hold a model, and return what it holds: hub, url, revision, private, license, files.

    recipe: model, hub, private. files: name in the folder → hash and size. variable: that of the token. license: the
    model's, as the config or its card spells it. What was sent before a failure is there: the next run goes on with
    the file after it.

    Raises:
        UserError: the hub refuses, cannot be reached, or shows everybody what should be private.
    """
    # Git LFS, which every hub speaks, and in which a file that is there is known by the hash that we have: asking costs
    # one small request. With HF_HUB_DISABLE_XET=0 it is the hub's own protocol, which looks through all bytes for that.
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    hub = recipe["hub"]
    contents = {name: Content(Path(folder, name), **facts) for name, facts in files.items()}
    card = hub_card(Path(folder, "README.md").read_text(encoding="utf-8"), license).encode()
    contents["README.md"] = Content(card, hashlib.sha256(card).hexdigest(), len(card))
    api = HfApi(token=key_of(variable, hub))
    try:
        revision, private = _bring(api, recipe, contents)
    except RepositoryNotFoundError:
        raise UserError(f"{hub}: the token in {variable} may not see it; take one that may write there.") from None
    except HfHubHTTPError as error:
        reason = redacted(one_line(str(error), 300), variable)
        if error.response.status_code in (401, 403):
            raise UserError(f"{hub}: the token in {variable} may not write there ({reason}).") from None
        if error.response.status_code in (409, 412):
            raise UserError(f"{hub}: was changed by somebody else meanwhile ({reason}); run again.") from None
        raise UserError(f"{hub}: the hub refuses ({reason}); run again: what is there is not sent again.") from None
    # What the library makes of an answer that it does not understand, and of a failure in one of its threads.
    except (OSError, HTTPError, ValueError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) else None
        reason = redacted(one_line(str(cause or error), 300), variable)
        raise UserError(
            f"{hub}: cannot be sent to ({reason or type(error).__name__}); check the network and HF_ENDPOINT and run "
            "again: what is there is not sent again."
        ) from error
    return {
        "hub": hub,
        "url": f"{api.endpoint}/{hub}/tree/{revision}",
        "revision": revision,
        "private": private,
        "license": spelt_by_hub(license),
        "files": {name: {"sha256": one.sha256, "size": one.size} for name, one in sorted(contents.items())},
    }


def _bring(api, recipe, contents):
    """Make the repository if need be, send what it lacks, and return (its revision, whether it is private)."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, ModelCard
    from huggingface_hub.errors import RepositoryNotFoundError

    hub = recipe["hub"]
    try:
        found = api.repo_info(hub)
    except RepositoryNotFoundError:
        api.create_repo(hub, private=recipe["private"], exist_ok=True)
        found = api.repo_info(hub)
    if recipe["private"] and not found.private:
        raise UserError(
            f"{hub}: everybody may see this repository; make it private on its page, or write `private: false` under "
            "`publish`."
        )
    there = _files_at(api, hub, found.sha)
    additions = [
        CommitOperationAdd(name, content.source)
        for name, content in sorted(contents.items())
        if not content.is_held_by(there.get(name))
    ]
    left_over = [name for name in there if name not in contents and any(fnmatch(name, one) for one in OF_A_MODEL)]
    if not (additions or left_over):
        logger.info("%s: all of %d files is there", hub, len(contents))
        return found.sha, found.private
    if any(addition.path_in_repo == "README.md" for addition in additions):
        # Before anything is sent.
        ModelCard(contents["README.md"].source.decode()).validate()
    # One after another: a run that is cut goes on with the file at which it was cut.
    for number, addition in enumerate(additions, start=1):
        content = contents[addition.path_in_repo]
        if addition.upload_info.sha256.hex() != content.sha256:
            raise UserError(f"{content.source}: is not what it was when it was made; delete it and run again.")
        api.preupload_lfs_files(hub, [addition], num_threads=1, free_memory=False)
        logger.info("%s: %s, %d of %d, %d bytes", hub, addition.path_in_repo, number, len(additions), content.size)
    for name in left_over:
        logger.warning("%s: %s is deleted there, it is no part of this model; the history keeps it", hub, name)
    commit = api.create_commit(
        hub,
        [*additions, *(CommitOperationDelete(name, is_folder=False) for name in left_over)],
        commit_message=f"{recipe['model']}, by Moult",
        parent_commit=found.sha,
    )
    there = _files_at(api, hub, commit.oid)
    if lacking := [name for name, content in contents.items() if not content.is_held_by(there.get(name))]:
        raise UserError(f"{hub}: does not hold {', '.join(lacking)}; look for a .gitignore in it, and run again.")
    return commit.oid, found.private


def _files_at(api, hub, revision):
    """Return path → `RepoFile` of a repository at a commit."""
    return {one.path: one for one in api.list_repo_tree(hub, recursive=True, revision=revision) if hasattr(one, "size")}


def hub_card(text: str, license: str) -> str:
    """Return a model card with its licence in the hub's spelling, which the hub's own list has, or called `other`."""
    name = spelt_by_hub(license)
    entry = (
        f"license: {name}" if is_known(name) else f"license: other\nlicense_name: {re.sub('[^a-z0-9.]+', '-', name)}"
    )
    return re.sub(r"^license: .*$", lambda _: entry, text, count=1, flags=re.MULTILINE)


def run(job: Job) -> None:
    """Do the job of publish_model."""
    stated = {Path(artefact(path)).name: read_manifest(path)["facts"].get("license") for path in job.inputs.fetched}
    check_licences(job.recipe, stated)
    files = read_manifest(job.inputs.model_manifest)["files"]
    folder = Path(job.inputs.model)
    inside = {name.removeprefix(f"{folder.name}/"): facts for name, facts in files.items()}
    license = str(job.recipe["license"] or stated[job.recipe["model"]])
    published = publish_model(job.recipe, folder, inside, job.client["token"], license)
    write_json(job.outputs.published, published)
    job.facts = {key: published[key] for key in ("hub", "revision")}
