"""The raw files of a dataset, checksums checked."""

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moult.base.downloads import check_hub_file, fetch_url
from moult.base.errors import UserError
from moult.base.failures import is_disk_full, no_space
from moult.base.files import sha256_file, whole_directory
from moult.base.secrets import key_of
from moult.base.signatures import begins_as_web_page
from moult.base.stage import Job

# Raise when the same sources would now give other raw files.
VERSION = 2
# Bytes of a name; most disks take 255.
LONGEST = 200
logger = logging.getLogger(__name__)


def fetch_dataset(sources: Sequence[Mapping[str, Any]], local: Iterable[str], target: str | Path) -> None:
    """Bring the raw files of a dataset together as `<target>/<split>/<index>-<name>`, checksums checked.

    `sources` is the recipe's list; `local` holds the paths of the local ones among them, in order.
    """
    local = iter(local)
    with whole_directory(target) as folder:
        for source in sources:
            place = folder / placed(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            if source["kind"] == "path":
                shutil.copyfile(next(local), place)
            elif source["kind"] == "hub":
                _fetch_hub(source, place)
            else:
                _fetch_url(source, place)
            found = sha256_file(place)
            if source["sha256"] and found != source["sha256"]:
                page = " it is a web page (HTML);" if begins_as_web_page(place) else ""
                raise UserError(
                    f"{source['basename']}: SHA-256 is {found}, the config says {source['sha256']};{page} "
                    "the file changed or the download is broken: fetch again, or correct `sha256`."
                )
            logger.info("%s: %d bytes, sha256 %s", source["basename"], place.stat().st_size, found)


def placed(source: Mapping[str, Any]) -> str:
    """Return the path of a raw file below the folder of a dataset's raw files."""
    return f"{source['split']}/{source['index']:02d}-{_short(source['basename'])}"


def _short(name):
    """Return a file's name, or its end where a disk would not take it with a number before it."""
    return name if len(name.encode()) <= LONGEST else name.encode()[-LONGEST:].decode("utf-8", "ignore")


def _fetch_url(source, place):
    if not source["sha256"]:
        raise UserError(f"{source['url']}: `sha256` is null; run `make pin` to look it up and record it.")
    fetch_url(source["url"], place)


def _fetch_hub(source, place):
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if not source["revision"]:
        raise UserError(f"{source['hub']}: `revision` is null; run `make pin` to look it up and record it.")
    try:
        found = hf_hub_download(
            source["hub"],
            source["file"],
            repo_type="dataset",
            revision=source["revision"],
            token=key_of(source["token"], f"hub dataset {source['hub']}") or False,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if is_disk_full(error):
            raise UserError(f"hub dataset {source['hub']}: {no_space([constants.HF_HUB_CACHE])}") from error
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"hub dataset {source['hub']}, {source['file']}: cannot be fetched ({reason}).") from error
    shutil.copyfile(check_hub_file(Path(found)), place)


def run(job: Job) -> None:
    """Do the job of fetch_dataset."""
    fetch_dataset(job.recipe["sources"], job.inputs.local, job.outputs.raw)
    job.used = {path: ["."] for path in job.inputs.local}
