"""A copy of what a build needs of the checkout, to be edited."""

import shutil

from pico_build import ROOT

PARTS = ("Makefile", "Snakefile", "pyproject.toml", "requirements.lock", "local", "slurm")
PARTS += ("config", "docs", "envs", "profiles", "resources", "rules", "scripts")


def copy_checkout(folder):
    """Copy the checkout into a folder that is not there yet; return the folder."""
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_symlink():
            (folder / part).symlink_to(source.readlink())
        elif source.is_dir():
            shutil.copytree(source, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    return folder
