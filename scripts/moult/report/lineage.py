"""Lineage: what was built from what, read from manifests, in words and as a picture."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moult.base.files import read_json
from moult.base.rows import Facts, Manifest, Recipe
from moult.data import fields
from moult.evaluation.kinds import SuiteKind
from moult.evaluation.suites import KINDS
from moult.report import graphs

# A larger graph is told by the table below it.
MOST_NODES = 60


class Artefact(Manifest):
    """A manifest with what the report calls its artefact: key (kind/name), in words (short, long), and bytes."""

    key: str
    kind: str
    short: str
    long: str
    size: int


def read_manifests(
    paths: Iterable[str | Path], root: Path, words: Mapping[str, Callable[[Recipe, Facts], tuple[str, str]]]
) -> dict[str, Artefact]:
    """Return key → manifest, the key being kind and name (`models/base`), and in words what the artefact is.

    words: rule → (recipe, facts) → (short, long), as stages have them.
    """
    made = {}
    for path in paths:
        key = Path(path).relative_to(root).as_posix().removesuffix(".manifest.json")
        one = read_json(path)
        kind, name = key.split("/", 1)
        parents = {parent.removeprefix(f"{root.as_posix()}/"): content for parent, content in one["parents"].items()}
        short, long = words[one["rule"]](one["recipe"], one["facts"])
        size = sum(file["size"] for file in one["files"].values())
        made[key] = one | {"key": key, "kind": kind, "name": name, "parents": parents}
        made[key] |= {"short": short, "long": long, "size": size}
    return made


def in_order(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Return split → what it holds, train first; JSON sorts them by name."""
    return {split: splits[split] for split in fields.SPLITS if split in splits}


def measurements_of(suite: str, kind: SuiteKind, made: Mapping[str, Artefact]) -> list[Artefact]:
    """Return the manifests of a suite's measurements, in their order."""
    return [one for one in made.values() if one["kind"] == kind.measurement and one["name"].split("/")[0] == suite]


def draw_lineage(made: Mapping[str, Artefact], kinds: Sequence[SuiteKind] = KINDS) -> str | None:
    """Return the picture of what was built from what, raw files and measurements left out; None if it is too large.

    A suite gets a dashed edge from each model that it measures, and from those of its datasets that serve nothing else.
    """
    nodes, edges, measured, datasets = {}, [], [], []
    kind_by_rule = {stage.rule: kind for kind in kinds for stage in kind.stages}
    for key, one in made.items():
        parents = [parent for parent in one["parents"] if parent in made]
        kind = kind_by_rule.get(one["rule"])
        if kind and one["kind"] == kind.measurement:
            suite = one["name"].split("/")[0]
            detail, whole = kind.summary(measurements_of(suite, kind, made))
            node = {"kind": "suites", "label": suite, "detail": detail, "title": f"{suite}: {whole}"}
            nodes[f"suites/{suite}"] = node
            measured += [(subject, f"suites/{suite}") for subject in kind.subjects(one)]
            datasets += [(parent, f"suites/{suite}") for parent in parents if parent.startswith("datasets/")]
        elif not kind:
            title = f"{one['name']}: {one['long']}"
            nodes[key] = {"kind": one["kind"], "label": one["name"], "detail": one["short"], "title": title}
            edges += [(parent, key) for parent in parents]
    if not 1 < len(nodes) <= MOST_NODES:
        return None
    for key in nodes:
        nodes[key]["href"] = f"#{key}"
    used = {parent for parent, _ in edges}
    measured += ((dataset, suite) for dataset, suite in datasets if dataset not in used)
    return graphs.draw_graph(nodes, edges, list(dict.fromkeys(measured)))


def package_versions(made: Mapping[str, Artefact]) -> dict[str, Counter[str]]:
    """Return package → version → how many artefacts were made with it."""
    versions = {}
    for one in made.values():
        for package, version in one["versions"].items():
            versions.setdefault(package, Counter())[version] += 1
    return dict(sorted(versions.items()))


def stale_parents(made: Mapping[str, Artefact]) -> list[tuple[str, str]]:
    """Return (artefact, parent) where the parent is no longer what the artefact was made from."""
    return [
        (key, parent)
        for key, one in made.items()
        for parent, content in one["parents"].items()
        if parent in made and made[parent]["content"] != content
    ]
