"""Recognise files by their first bytes, where the name says something else."""

from pathlib import Path

LFS_POINTER = b"version https://git-lfs"
WEB_PAGE = (b"<!doctype html", b"<html")


def begins_as_web_page(file: Path) -> bool:
    """Whether a file begins as HTML does: the page of an error, or of a login, saved as what was asked for."""
    with open(file, "rb") as handle:
        return handle.read(512).lstrip().lower().startswith(WEB_PAGE)
