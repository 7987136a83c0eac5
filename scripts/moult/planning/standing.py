"""What stands of an experiment before a build: is it what its manifests say, and what the config of today asks for?

Snakemake's own memory of what it made (`.snakemake`) may be gone, or be another's than that of a restored folder, and
it looks at time stamps. A job whose artefact disagrees with its manifest, or the manifest with the recipe, the parents
or the user's files of today, is forced while the graph is built; nothing is deleted for it, so that a dry run says the
same.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import blake3_file, digest
from moult.base.rows import Manifest
from moult.base.stage import Experiment, Local, Ref, Stage
from moult.jobs.manifest import Seen, flaws, is_gone, read_manifest
from moult.stages import STAGES

# Forms of references to what a job is made again with.
WATCHED = ("artefact", "file", "manifest")
# Sentences that are shown; the table of jobs has the others.
SHOWN = 20


@dataclass(frozen=True)
class Look:
    """What a job's artefact looks like before a build.

    again: why it is to be made again, None where it stands or where that is Snakemake's to find. compared: whether its
    manifest has digests of the user's files, so that their time stamps are no reason to make it again. made: whether it
    was made, there: whether it is still there.
    """

    again: str | None = None
    compared: bool = False
    made: bool = False
    there: bool = False


class Standing:
    """The artefacts of an experiment, each looked at once.

    results: their folder. tell: what shows a sentence. params: whether another recipe is a reason to make one again.
    """

    def __init__(self, cfg: Experiment, results: Path, tell: Callable[[str], None], params: Callable[[], bool]) -> None:
        self.cfg, self.results, self.tell, self.params = cfg, results, tell, params
        self.read: dict[str, Manifest | UserError] = {}
        self.looked: dict[tuple[str, tuple[str, ...]], Look] = {}
        self.told: set[tuple[str, tuple[str, ...]]] = set()
        self.due: dict[tuple[str, tuple[str, ...]], bool] = {}
        self.sharing: dict[str, dict[Ref | Local, list[tuple[str, ...]]]] = {}

    def look(self, stage: Stage, names: tuple[str, ...], references: Mapping[str, Any]) -> Look:
        """Return what a job's artefact looks like; tell of it where it is to be made again.

        references: key → a reference of the job's inputs, or a list of them.
        """
        look = self._looked(stage, names, flat(references))
        if look.again and (stage.rule, names) not in self.told:
            self.told.add((stage.rule, names))
            if len(self.told) <= SHOWN:
                self.tell(f"{look.again}; {self.results / stage.path(*names)} is made again.")
            elif len(self.told) == SHOWN + 1:
                self.tell("More disagrees with its manifest, and is made again too.")
        return look

    def lacks(self, stage: Stage, names: tuple[str, ...]) -> bool:
        """Whether a job's artefact is to be made, as far as its manifest and those of what it is made of tell."""
        return not self._looked(stage, names).there or self._is_due(stage, names)

    def does_without(self, stage: Stage, names: tuple[str, ...], shared: Ref) -> bool:
        """Whether a job stands while others lack, for which alone what they share is made."""
        if stage.rule not in self.sharing:
            found = self.sharing[stage.rule] = defaultdict(list)
            for one in stage.names(self.cfg):
                for reference in flat(stage.inputs(self.cfg, *one)):
                    found[reference].append(one)
        others = self.sharing[stage.rule][shared]
        return not self.lacks(stage, names) and any(self.lacks(stage, one) for one in others)

    def is_gone(self, reference: Ref) -> bool:
        """Whether an artefact was made, and is there no more."""
        look = self._looked(*self._makers[reference.path])
        return look.made and not look.there

    def _is_due(self, stage, names):
        """Whether an artefact, or what it is made of, was never made or is to be made again."""
        if (stage.rule, names) not in self.due:
            look, references = self._looked(stage, names), flat(stage.inputs(self.cfg, *names))
            watched = [one.path for one in references if isinstance(one, Ref) and one.form in WATCHED]
            self.due[stage.rule, names] = bool(look.again or not look.made) or any(
                self._is_due(*self._makers[path]) for path in watched if path in self._makers
            )
        return self.due[stage.rule, names]

    @cached_property
    def _makers(self):
        """Path of an artefact below the results → the stage and the names of the job that makes it."""
        return {stage.path(*names): (stage, names) for stage in STAGES for names in stage.names(self.cfg)}

    def _looked(self, stage, names, references=None):
        if (stage.rule, names) not in self.looked:
            references = flat(stage.inputs(self.cfg, *names)) if references is None else references
            self.looked[stage.rule, names] = self._look(stage, names, references)
        return self.looked[stage.rule, names]

    def _look(self, stage, names, references):
        artefact, path = self.results / stage.path(*names), self.results / stage.manifest(*names)
        seen = Seen(path)
        if not path.exists():
            # A manifest beside the outputs is missing where it was never written.
            was_there = stage.sealed or seen.kept.exists()
            there = artefact.exists()
            return Look(f"{path}: is missing" if was_there and there else None, made=there, there=there)
        manifest = self._manifest(str(path))
        if isinstance(manifest, UserError):
            return Look(str(manifest).removesuffix("; delete it and run again."))
        # A whole folder that is gone was taken away by somebody: it is made again when something needs it, or when what
        # was made with it would be made otherwise today.
        gone = is_gone(path, manifest)
        if gone and not stage.sealed:
            return Look(made=True)
        local = [one for one in references if isinstance(one, Local)]
        again = (
            (None if gone else next(flaws(path, manifest, seen), None))
            or self._other_recipe(path, manifest, stage, names)
            or self._other_parent(path, manifest, stage, [one for one in references if isinstance(one, Ref)])
            or next(_changes(path, manifest, local, seen), None)
        )
        seen.keep()
        return Look(again, compared="local" in manifest, made=True, there=not gone)

    def _manifest(self, path):
        """Return a manifest, or the error of reading it."""
        if path not in self.read:
            try:
                self.read[path] = read_manifest(path)
            except UserError as error:
                self.read[path] = error
        return self.read[path]

    def _other_recipe(self, path, manifest, stage, names):
        if not stage.recipe or not self.params():
            return None
        old, new = manifest["recipe"], stage.recipe(self.cfg, *names)
        # What differs may be a tuple where JSON has a list.
        if old == new or digest(old) == digest(new):
            return None
        other = sorted(key for key in {*old, *new} if digest(old.get(key)) != digest(new.get(key)))
        return f"{path}: is of another recipe than the config's ({', '.join(other)})"

    def _other_parent(self, path, manifest, stage, references):
        parents = {f"{self.results}/{one.kind}/{one.name}": one for one in references}
        if stage.sealed:
            forms = ("artefact", "settled", "manifest")
            asked = {name for name, one in parents.items() if one.form in forms}
            if other := sorted(asked.symmetric_difference(manifest["parents"])):
                return f"{path}: is not of the parents that the config says ({other[0]})"
        for name, content in manifest["parents"].items():
            # What is settled is made again without a change to what was made with it.
            if name in parents and parents[name].form != "settled":
                parent = self._manifest(f"{name}.manifest.json")
                if not isinstance(parent, UserError) and parent["content"] != content:
                    return f"{path}: is of another {name} than there is"
        return None


def flat(references: Mapping[str, Any]) -> list[Ref | Local]:
    """Return the references of a job's inputs, each of which is a reference or a list of them."""
    return [one for value in references.values() for one in (value if isinstance(value, list) else [value])]


def look_behind_ancient(dag: Any) -> None:
    """Have Snakemake look for reasons to run wherever a run does not reach.

    It looks for none behind a job that is to run, since all that follows runs too; but where inputs are `ancient`,
    nothing follows, and what had changed there waited for the next build. What is behind a job it asks of `dag.bfs`, as
    `--omit-from` does, for which all that is behind counts.
    """
    if dag.omitrules or dag.omitfiles or "bfs" in vars(dag):
        return

    class Followed(dict):
        def __missing__(self, job):
            behind = dag.depending[job].items()
            return {one: files for one, files in behind if not all(file.is_ancient for file in files)}

    whole = dag.bfs

    def bfs(direction, *jobs, **how):
        return whole(Followed() if direction is dag.depending else direction, *jobs, **how)

    dag.bfs = bfs


def _changes(path: Path, manifest: Manifest, local: Sequence[Local], seen: Seen) -> Iterator[str]:
    """Yield how the user's files differ from those that a job read, where its manifest has digests of these."""
    places = {one.path: one for one in local}
    recorded = manifest.get("local", [])
    if recorded and len(recorded) != len(places):
        yield f"{path}: is of other files of yours than the config names"
    for place, digests in zip(places.values(), recorded, strict=False):
        try:
            names = {*digests, *(place.used(place.path) if place.used else ())}
        except UserError as error:
            yield str(error).rstrip(".")
            continue
        for name in sorted(names):
            file, expected = Path(place.path, name), digests.get(name)
            try:
                stat = os.stat(file)
                if expected is None:
                    yield f"{file}: is new"
                elif not seen.has(file, expected, stat):
                    if blake3_file(file) == expected:
                        seen.note(file, expected)
                    else:
                        yield f"{file}: has changed"
            except OSError:
                if expected is not None:
                    yield f"{file}: is gone"
