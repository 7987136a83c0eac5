"""The videos of a hub dataset."""

import logging
from pathlib import Path

from moult.base.downloads import check_hub_file, link
from moult.base.errors import UserError
from moult.base.failures import is_disk_full, no_space
from moult.base.files import whole_directory
from moult.base.rows import Facts, Recipe
from moult.base.secrets import key_of
from moult.base.stage import Job

# Raise when the same source would now give other videos.
VERSION = 1
logger = logging.getLogger(__name__)


def fetch_videos(recipe: Recipe, target: str | Path) -> Facts:
    """Bring the videos of a hub dataset's folder into the folder `target`, whole or not at all.

    They lie in the user's hub cache, where an interrupted download resumes, and are linked from there. recipe: hub,
    revision, folder, token (name of the variable). UserError when they cannot be had.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    where = f"hub dataset {recipe['hub']}, {recipe['folder']}"
    if not recipe["revision"]:
        raise UserError(f"{where}: `revision` is null; run `make pin` to look it up and record it.")
    disable_progress_bars()
    try:
        snapshot = snapshot_download(
            recipe["hub"],
            repo_type="dataset",
            revision=recipe["revision"],
            allow_patterns=[f"{recipe['folder']}/*"],
            token=key_of(recipe["token"], where) or False,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if is_disk_full(error):
            raise UserError(f"{where}: {no_space([constants.HF_HUB_CACHE])}") from error
        raise UserError(f"{where}: cannot be fetched ({str(error).strip().splitlines()[0]}).") from error
    origin = Path(snapshot, recipe["folder"])
    found = [file for file in sorted(origin.rglob("*")) if file.is_file()]
    if not found:
        raise UserError(f"{where}: has no files at this revision; correct `folder`.")
    with whole_directory(target) as folder:
        for file in found:
            place = folder / file.relative_to(origin)
            place.parent.mkdir(parents=True, exist_ok=True)
            link(check_hub_file(file), place)
    logger.info("%d files of %s", len(found), where)
    return {"files": len(found)}


def run(job: Job) -> None:
    """Do the job of fetch_videos."""
    job.facts = fetch_videos(job.recipe, job.outputs.videos)
