"""Datasets as their job leaves them: a folder, and the manifest beside it."""

from moult.data.prepare import prepare_dataset
from moult.jobs.manifest import write_manifest


def prepare_with_manifest(recipe, raw, target, *more):
    """Prepare a dataset and write its manifest; return the profile. more: see `prepare_dataset`."""
    profile = prepare_dataset(recipe, raw, target, *more)
    path = f"{target}.manifest.json"
    write_manifest(path, rule="prepare_dataset", outputs=[target], parents=[], recipe=recipe, facts=profile)
    return profile
