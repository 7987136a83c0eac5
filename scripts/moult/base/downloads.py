"""Downloads that are whole, or a sentence that says why not."""

import hashlib
import http.client
import logging
import os
import re
import shutil
import time
from pathlib import Path

from moult.base.errors import UserError
from moult.base.failures import is_disk_full
from moult.base.files import sha256_file

# Seconds before the second, third and fourth attempt, seconds without a byte, and the least speed (bytes per second,
# over the whole download, judged after the same time): a server that drips never lets a socket time out.
WAITS = (1, 4, 15)
PATIENCE = 30
SLOWEST = 1000
# Too early, too much, or broken on the server's side: the same request may do later.
_PASSING = {408, 425, 429, 500, 502, 503, 504}
logger = logging.getLogger(__name__)


def fetch_url(url: str, place: Path) -> None:
    """Write what is at `url` to the file `place`, after a few attempts if need be; UserError when it does not come."""
    import urllib.error

    for wait in (*WAITS, None):
        try:
            return _fetch_once(url, place)
        except (OSError, http.client.HTTPException) as error:
            if is_disk_full(error):
                raise
            passing = not isinstance(error, urllib.error.HTTPError) or error.code in _PASSING
            if wait is None or not passing:
                raise UserError(
                    f"{url}: cannot be fetched ({error or type(error).__name__}); check the address and the network."
                ) from error
            logger.warning("%s: %s; trying again in %d s", url, error or type(error).__name__, wait)
            time.sleep(wait)


def _fetch_once(url, place):
    import urllib.request

    begun, received = time.monotonic(), 0
    with urllib.request.urlopen(url, timeout=PATIENCE) as response, open(place, "wb") as handle:
        expected = response.headers.get("Content-Length")
        while part := response.read1(1 << 20):
            handle.write(part)
            received += len(part)
            seconds = time.monotonic() - begun
            if seconds > PATIENCE and received < SLOWEST * seconds:
                raise TimeoutError(f"only {received} bytes in {seconds:.0f} s")
    # A connection that is closed early looks like the end of the file.
    if expected and expected.isdigit() and received != int(expected):
        raise ConnectionError(f"{received} of {expected} bytes came")


def link(file: Path, target: Path) -> None:
    """Hard link, so that what lies on the cache's disk takes its space once; copy to another disk."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def check_hub_file(file: Path) -> Path:
    """Compare a file of the hub's cache with the hash that the hub named it by, and return the file itself.

    huggingface_hub compares sizes only. Files in LFS or Xet are named by their SHA-256, others by git's SHA-1 (by a
    plain SHA-1 on some mirrors); a cache without links does not know the names, and is taken as it is.
    """
    name = Path(os.readlink(file)).name if file.is_symlink() else ""
    blob = file.resolve()
    if re.fullmatch("[0-9a-f]{64}", name):
        found = {sha256_file(blob)}
    elif re.fullmatch("[0-9a-f]{40}", name):
        content = blob.read_bytes()
        found = {hashlib.sha1(start + content).hexdigest() for start in (b"", b"blob %d\0" % len(content))}
    else:
        return blob
    if name not in found:
        raise UserError(f"{blob}: is not the {file.name} of the hub (its hash differs); delete it and run again.")
    return blob
