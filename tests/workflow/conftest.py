"""A pico build through the real Snakefile: built once per session, copied for each edit."""

import shutil

import pytest
from pico_build import Folder

# Fixtures that several tests share and that take long: a build of the session's, or of one module's.
BUILDS = ("prepared", "optimised", "filmed", "built")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep what shares a build in one process, when tests run in several; before xdist looks at the groups."""
    # pytest-xdist 3.8 writes a group where pytest 9.2 does not read it. Until one of them changes, two processes may
    # make the same build, which costs time and nothing else.
    for item in items:
        shared = next((name for name in BUILDS if name in item.fixturenames), None)
        if "workflow" in item.path.parts and shared:
            item.add_marker(pytest.mark.xdist_group(shared))


@pytest.fixture(scope="session")
def built(tmp_path_factory, inputs, server):
    """The whole pico build, made once."""
    made = Folder(shutil.copytree(inputs, tmp_path_factory.mktemp("built") / "work"), server)
    run = made.snakemake()
    assert run.returncode == 0, run.stdout + run.stderr
    return made


@pytest.fixture
def copied(built, tmp_path, server):
    """A copy of the whole build, to be edited; modification times kept."""
    return Folder(shutil.copytree(built.path, tmp_path / "copy", symlinks=True), server)


@pytest.fixture
def unbuilt(inputs, tmp_path, server):
    """The inputs of the pico build, nothing made of them."""
    return Folder(shutil.copytree(inputs, tmp_path / "work"), server)
