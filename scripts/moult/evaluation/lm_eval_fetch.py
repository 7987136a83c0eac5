"""The rows of lm-eval's tasks from the hub, each repository once, at its revision."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.failures import is_disk_full, no_space
from moult.base.files import whole_directory
from moult.base.secrets import key_of
from moult.base.stage import Job

# Of the repository itself, no rows.
OURS = (".cache", ".gitattributes")
logger = logging.getLogger(__name__)


def fetch_task_data(sources: Sequence[Mapping[str, Any]], target: str | Path) -> int:
    """Bring repositories together as `<target>/<owner>/<name>`; return the number of files.

    sources: {hub, revision, files, token}. UserError where one cannot be fetched, or has no file of those names.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    count = 0
    with whole_directory(target) as folder:
        for source in sources:
            if not source["revision"]:
                raise UserError(f"{source['hub']}: `revision` is null; run `make pin` to look it up and record it.")
            place = folder / source["hub"]
            # What tells the names and files of a repository's parts is needed beside them.
            wanted = [*source["files"], *(f"{one.rstrip('/')}/*" for one in source["files"]), "README.md"]
            try:
                snapshot_download(
                    source["hub"],
                    repo_type="dataset",
                    revision=source["revision"],
                    allow_patterns=wanted if source["files"] else None,
                    token=key_of(source["token"], f"hub dataset {source['hub']}") or False,
                    local_dir=place,
                )
            except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
                if is_disk_full(error):
                    raise UserError(f"hub dataset {source['hub']}: {no_space([constants.HF_HUB_CACHE])}") from error
                reason = str(error).strip().splitlines()[0]
                gated = " Where it is gated, accept its terms on the hub and name `token`." if "40" in reason else ""
                raise UserError(f"hub dataset {source['hub']}: cannot be fetched ({reason}).{gated}") from error
            for name in OURS:
                shutil.rmtree(place / name, ignore_errors=True)
            found = [path for path in place.rglob("*") if path.is_file() and path.name not in OURS]
            if not [path for path in found if path.name != "README.md"]:
                raise UserError(
                    f"hub dataset {source['hub']}: has none of {', '.join(source['files'])}; correct `files`."
                )
            logger.info("%s: %d files", source["hub"], len(found))
            count += len(found)
    return count


def run(job: Job) -> None:
    """Do the job of fetch_task_data."""
    job.facts = {"files": fetch_task_data(job.recipe["sources"], job.outputs.data)}
