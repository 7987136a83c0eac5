"""A pico build through the real Snakefile: built once for all processes of a run, copied for each edit."""

import shutil

import pytest
from pico_build import Folder


@pytest.fixture(scope="session")
def build_once(once):
    """Return a function that returns a whole build in a folder of this process's own.

    `build_once(name, write, server, kind)`: what `write(folder)` puts into an empty folder is built there, once for all
    processes, by `kind(folder, server)`; whatever is asked in the copy goes to the `server` of this process.
    """

    def build(name, write, server, kind=Folder):
        def make(folder):
            write(folder)
            run = kind(folder, server).snakemake()
            assert run.returncode == 0, run.stdout + run.stderr

        return kind(once(name, make), server)

    return build


@pytest.fixture(scope="session")
def built(build_once, inputs, server):
    """The whole pico build."""
    return build_once("built", lambda folder: shutil.copytree(inputs, folder, dirs_exist_ok=True), server)


@pytest.fixture
def copied(built, tmp_path, server):
    """A copy of the whole build, to be edited; modification times kept."""
    return Folder(shutil.copytree(built.path, tmp_path / "copy", symlinks=True), server)


@pytest.fixture
def unbuilt(inputs, tmp_path, server):
    """The inputs of the pico build, nothing made of them."""
    return Folder(shutil.copytree(inputs, tmp_path / "work"), server)
