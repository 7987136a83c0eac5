"""What an estimate knows before a build: rows as they are today, or as many as the config says."""

import contextlib
import filecmp
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import digest, read_json, read_jsonl
from moult.base.stage import Ref
from moult.config.experiment import Config
from moult.stages import STAGES
from moult.stages import datasets as dataset_stages
from moult.stages.foreseen import prepared_questions, rows_of

# Tokens of a question that is not at hand, at least, at most, and the number that counts as usual.
QUESTION_TOKENS, USUAL_QUESTION = (20, 1500), 250


class Artefacts:
    """The results of an experiment so far, as far as they are still what a build would make."""

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.results = cfg, Path("results", cfg.name)
        self.questions, self.is_current = functools.cache(self._questions), functools.cache(self._is_current)

    def rows(self, reference: Ref) -> list[Any] | None:
        """Return the rows of an artefact, None where it is not written, or would be written by another recipe."""
        path = self.results / reference.path
        return read_jsonl(path) if path.exists() and self._is_as_planned(reference) else None

    def rejected(self, reference: Ref) -> set[str]:
        """Return the uids of the rows that a corpus has rejected, none of another artefact."""
        path = self.results / f"{reference.kind}/{reference.name}.rejects.jsonl"
        known = path.exists() and self._is_as_planned(reference)
        return {row["uid"] for row in read_jsonl(path)} if known else set()

    def _is_as_planned(self, reference):
        manifest, names = self.results / reference.manifest, tuple(reference.name.split("/"))
        made_by = (one for one in STAGES if one.makes == reference.kind and names in one.names(self.cfg))
        if not manifest.exists() or not (stage := next(made_by, None)):
            return True
        return digest(read_json(manifest).get("recipe")) == digest(stage.recipe(self.cfg, *names))

    def _is_current(self, dataset):
        """Whether a prepared dataset is what the raw files of today would make."""
        made = {kind: self.results / kind / f"{dataset}.manifest.json" for kind in ("raw", "datasets")}
        planned = {"raw": dataset_stages.fetch_dataset, "datasets": dataset_stages.prepare_dataset}
        for kind, manifest in made.items():
            recipe = planned[kind](self.cfg, dataset)
            if not manifest.exists() or digest(read_json(manifest).get("recipe")) != digest(recipe):
                return False
        sources = dataset_stages.raw_sources(self.cfg.find("datasets", dataset))
        with contextlib.suppress(FileNotFoundError):
            return all(
                filecmp.cmp(source.path, self._fetched(dataset, split, index, source), shallow=False)
                for split, index, source in sources
                if source.path
            )
        return False

    def _fetched(self, dataset, split, index, source):
        return self.results / "raw" / dataset / split / f"{index:02d}-{source.basename}"

    def _questions(self, name):
        """Return (all rows of a dataset as prompts or judges need them, a note or None, whether they are only as many
        as the config says); UserError where not even that is known."""
        shape = self.cfg.find("datasets", name).shape
        if self.is_current(name):
            return rows_of(self.results / "datasets" / name, shape), None, False
        try:
            rows = prepared_questions(self.cfg, name, self.results / "raw" / name)
        except UserError as error:
            rows = self._counted(name) if shape in ("questions", "prompts") else []
            if not rows:
                raise
            tokens = (
                f"{QUESTION_TOKENS[0]} to {QUESTION_TOKENS[1]:,} tokens assumed for each, {USUAL_QUESTION} as usual"
            )
            return rows, f"{error}: {len(rows):,} rows as the config says, {tokens}", True
        made = (self.results / "datasets" / f"{name}.manifest.json").exists()
        now = "has changed since it was prepared" if made else "is not prepared yet"
        return rows, f"dataset {name} {now}, counted from its raw files", False

    def _counted(self, name):
        """Return as many empty rows of a dataset as the config says that it has, none where it says nothing."""
        dataset, limit = self.cfg.find("datasets", name), self.cfg.limit
        counts = {split: dataset.rows.get(split) or limit for split in dataset.files}
        for split, fraction in (("test", dataset.test_fraction), ("dev", dataset.dev_fraction)):
            if split in counts or not fraction or not counts.get("train"):
                continue
            if "train" in dataset.rows:
                counts[split] = max(1, round(counts["train"] * fraction))
                counts["train"] -= counts[split]
            else:
                counts[split] = limit
        # Rounds say how many there are once dev and test are drawn.
        told = [entry.rows for entry in self.cfg.rounds if entry.dataset == name]
        counts |= {"train": told[0]} if told else {}
        if None in counts.values():
            return []
        limit = limit or max(counts.values())
        return [
            {
                "uid": f"{name}:{split}:{number}",
                "dataset": name,
                "split": split,
                "field": "",
                "title": "",
                "question": "",
            }
            for split, count in counts.items()
            for number in range(min(count, limit))
        ]


class Known:
    """What there is so far of what one job asks about, and what has to be said of it."""

    def __init__(self, artefacts: Artefacts) -> None:
        self.artefacts = artefacts
        self.notes: list[str] = []
        # Tokens of each row that is not at hand, at least and at most.
        self.assumed = (0, 0)

    def note(self, sentence: str) -> None:
        """Say something under the line of the job."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def rows(self, reference: Ref) -> list[Any] | None:
        """Return the rows of an artefact; None where it is not written yet, or would be written otherwise today."""
        return self.artefacts.rows(reference)

    def rejected(self, reference: Ref) -> set[str]:
        """Return the uids of the rows that a corpus has rejected."""
        return self.artefacts.rejected(reference)

    def is_current(self, datasets: Sequence[str]) -> bool:
        """Whether the prepared datasets are what their raw files of today would make."""
        return all(map(self.artefacts.is_current, datasets))

    def questions(self, dataset: str, splits: Sequence[str]) -> list[Any] | None:
        """Return the questions of a dataset's splits; None, and a note, where not even their number is known."""
        try:
            rows, origin, counted = self.artefacts.questions(dataset)
        except UserError as error:
            self.note(f"rows unknown: {error}; fetch it (`--until fetch_dataset`), or write its `rows`")
            return None
        if origin:
            self.note(origin)
        if counted:
            self.assumed = QUESTION_TOKENS
        return [row for row in rows if row["split"] in splits]
