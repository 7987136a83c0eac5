"""Recognise files by their first bytes, where the name says something else."""

import codecs
from pathlib import Path

LFS_POINTER = b"version https://git-lfs"
WEB_PAGE = (b"<!doctype html", b"<html")


def begins_as_web_page(file: Path) -> bool:
    """Whether a file begins as HTML does: the page of an error, or of a login, saved as what was asked for."""
    with open(file, "rb") as handle:
        return handle.read(512).lstrip().lower().startswith(WEB_PAGE)


UNPACK = "unpack it"
EXPORT = "export it as TSV, CSV, JSON, JSON lines or parquet"
PARQUET = b"PAR1"
# What is no table of text, by its first bytes; UTF-32 begins like UTF-16.
SIGNATURES = (
    (b"\xff\xfe", "UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16", "save it as UTF-8"),
    (b"\x1f\x8b", "gzip", UNPACK),
    (b"BZh91AY&SY", "bzip2", UNPACK),
    (b"\xfd7zXZ\x00", "xz", UNPACK),
    (b"\x28\xb5\x2f\xfd", "zstandard", UNPACK),
    (b"7z\xbc\xaf", "7-Zip", UNPACK),
    (b"PK\x03\x04", "a zip archive or an Excel workbook", f"{UNPACK}, or {EXPORT}"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", EXPORT),
    (PARQUET + b"\x15", "parquet", "name it .parquet"),
    (b"ARROW1\x00", "Arrow", EXPORT),
    (b"SQLite format 3\x00", "SQLite", EXPORT),
    (b"%PDF-", "PDF", EXPORT),
    (LFS_POINTER, "a pointer of Git LFS", "fetch the file itself, with `git lfs pull`"),
    *((mark, "a web page", "download the file itself") for mark in WEB_PAGE),
)


def signature_of(start: bytes) -> tuple[bytes, str, str] | None:
    """Return the entry of SIGNATURES for the first bytes of a file, None where they are of none."""
    page = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    return next((one for one in SIGNATURES if start.startswith(one[0]) or page.startswith(one[0])), None)
