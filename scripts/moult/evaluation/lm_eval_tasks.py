"""Tasks of lm-eval that stand in files here: which there are, which files each reads, and what is wrong with them.

Nothing of lm-eval is imported: planning reads the files as YAML.
"""

import ast
import glob
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from moult.base.errors import UserError, nearest
from moult.base.paths import RESOURCES
from moult.base.yaml_files import parse_yaml, read_yaml

# Formats of `datasets` that read files, and no repository of the hub.
FILES = ("json", "csv", "parquet", "text", "arrow", "xml", "webdataset")
OUTPUTS = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")
# Keys of a file that are none of a task's own.
OF_FILES = ("include", "task_list", "class")
GROUP_KEYS = ("group", "group_alias", "aggregate_metric_list")
_FUNCTION = re.compile(r"!function\s+(?=\S)")
_CALLED = re.compile(r"!function\s+([\w.]+)\.\w+")


@dataclass
class Entry:
    """A task, a group or a tag. files: the YAML files that say what it is; code: the Python files that they name."""

    name: str
    path: Path
    config: dict[str, Any]
    files: list[Path] = field(default_factory=list)
    # Of a group or a tag: the names of its members.
    members: tuple[str, ...] | None = None


def folders_of(include: Sequence[str]) -> list[Path]:
    """Return the folders in which tasks are looked for: those that come with Moult, the study's own, and `include`.
    Of equal names the last one counts, as in lm-eval."""
    return [RESOURCES / "lm_eval", Path("lm_eval"), *map(Path, include)]


def known_tasks(include: Sequence[str]) -> dict[str, Entry]:
    """Return name → Entry of all tasks, groups and tags in files; UserError where a file is no YAML."""
    paths = [path for folder in folders_of(include) for path in sorted(folder.rglob("*.yaml"))]
    return _known(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths))


@cache
def _known(stamped):
    found: dict[str, Entry] = {}
    tags: dict[str, list[str]] = {}
    for path, *_ in stamped:
        files: list[Path] = []
        config = _read(path, files)
        for one in _listed(config.pop("task_list", None)) or [config]:
            if not isinstance(one, dict):
                raise UserError(f"{path}: an entry of task_list is {one!r}; write a task with its settings.")
            _check(path, config | one)
            for entry in _entries(path, config | one, files):
                found[entry.name] = entry
                for tag in _listed(entry.config.get("tag")) if entry.members is None else []:
                    tags.setdefault(tag, []).append(entry.name)
    for tag, members in tags.items():
        found.setdefault(tag, Entry(tag, found[members[0]].path, {}, [], tuple(members)))
    return found


def _check(path, config):
    """Raise UserError where a setting by which tasks and files are found is no such thing."""
    members = [
        one.get("group") or one.get("task") if isinstance(one, dict) else one for one in _listed(config.get("task"))
    ]
    words = {"task": members, "group": _listed(config.get("group")), "tag": _listed(config.get("tag"))}
    for key, values in words.items():
        kinds = str | list if key == "task" else str
        if wrong := [one for one in values if not isinstance(one, kinds) or isinstance(one, str) and "\0" in one]:
            raise UserError(f"{path}, {key}: {wrong[0]!r} is no name; write one, or a list of names.")
    if not isinstance(config.get("dataset_kwargs") or {}, dict):
        raise UserError(f"{path}, dataset_kwargs: is no mapping; write e.g. data_files: {{test: rows.jsonl}}.")


def _entries(path, config, files):
    """Yield the entries of a file: a task, or a group and the tasks that are written out in it."""
    if "group" in config or isinstance(config.get("task"), list):
        members = []
        for one in _listed(config.get("task")):
            if isinstance(one, dict) and isinstance(one.get("task"), list):
                yield from _entries(path, one, files)
            name = one if isinstance(one, str) else one.get("group") or one.get("task")
            if isinstance(name, str):
                members.append(name)
                if isinstance(one, dict) and "dataset_path" in one:
                    yield Entry(name, path, one, files)
        yield Entry(str(config.get("group")), path, config, files, tuple(members))
    elif isinstance(config.get("task"), str):
        yield Entry(config["task"], path, config, files)


def _listed(value):
    return value if isinstance(value, list) else [value] if value else []


def _read(path, files):
    """Return the settings of a file and of those that it includes; `files` gets all of them."""
    if path.resolve() in [one.resolve() for one in files]:
        raise UserError(f"{path}: includes itself; leave one of the `include` out.")
    files.append(path)
    try:
        text = path.read_text(encoding="utf-8")
        config = parse_yaml(_FUNCTION.sub("", text), str(path)) if "!function" in text else read_yaml(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); name a file in UTF-8.") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: is no task of lm-eval; write `task:` or `group:` with its settings.")
    for called in _CALLED.findall(text):
        if (module := path.parent / f"{called.replace('.', '/')}.py").exists():
            files.append(module)
    below: dict[str, Any] = {}
    for name in _listed(config.get("include")):
        below |= {key: value for key, value in _read(path.parent / str(name), files).items() if key != "task_list"}
    return below | {key: value for key, value in config.items() if key != "include"}


def entries_of(names: Sequence[str], known: Mapping[str, Entry]) -> list[Entry]:
    """Return the entries behind names, groups before their members; names that stand in no file here are left out."""
    found: dict[str, Entry] = {}

    def add(name):
        if name in known and name not in found:
            found[name] = known[name]
            for member in known[name].members or ():
                add(member)

    for name in names:
        add(name)
    return list(found.values())


def data_files(entry: Entry) -> list[Path]:
    """Return the files of rows that a task reads, where they are found; see `located`."""
    files = (entry.config.get("dataset_kwargs") or {}).get("data_files")
    values = files.values() if isinstance(files, dict) else [files]
    return [Path(located(one, entry.path)) for value in values for one in _listed(value) if isinstance(one, str)]


def located(path: str, beside: Path) -> str:
    """Return where a file of rows is: relative to the working directory as for lm-eval, or else to the folder of the
    task's file or the one around it; as it stands where it is in neither, or is no path of this machine. What comes
    with Moult is beside its task, whatever the working directory has."""
    if "://" in path or Path(path).is_absolute():
        return path
    own = [] if beside.is_relative_to(RESOURCES) else [Path(path)]
    places = [*own, beside.parent / path, beside.parent.parent / path]
    # A pattern names several files.
    return str(next((one for one in places if one.exists() or glob.glob(str(one), recursive=True)), path))


def hub_of(config: Mapping[str, Any]) -> str | None:
    """Return the repository of the hub that a task's rows are in; None where they are in files."""
    path = config.get("dataset_path")
    if not isinstance(path, str) or path in FILES or Path(path).exists() or "custom_dataset" in config:
        return None
    return path


def flaws(entries: Sequence[Entry], data: Sequence[str]) -> Iterator[str]:
    """Yield a phrase for each task that lm-eval would refuse late, or that wants a repository not among `data`."""
    fields = _task_fields()
    for entry in entries:
        if entry.members is not None:
            continue
        place, config = f"{entry.path}, task {entry.name!r}", entry.config
        allowed = [*fields, *OF_FILES]
        for key in config if fields else ():
            if key not in allowed:
                yield f"{place}: {key!r} is no setting of a task{nearest(key, allowed)}"
        output = config.get("output_type", OUTPUTS[-1])
        if output not in OUTPUTS:
            yield f"{place}: output_type {output!r} is not one of {', '.join(OUTPUTS)}{nearest(str(output), OUTPUTS)}"
        if "class" not in config and "custom_dataset" not in config and not config.get("dataset_path"):
            yield f"{place}: has no dataset_path; write `json` and its data_files, or a data set of the hub"
        hub = hub_of(config)
        if hub and hub not in data:
            yield f"{place}: wants {hub} of the hub; name it under the suite's `data`, with its revision"


@cache
def _task_fields():
    """Return the settings that lm-eval's tasks have, read from its source; none where it is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    path = Path(next(iter(spec.submodule_search_locations or ())), "config", "task.py") if spec else None
    if path is None or not path.exists():
        return ()
    classes = [one for one in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(one, ast.ClassDef)]
    fields = next((one.body for one in classes if one.name == "TaskConfig"), [])
    return tuple(one.target.id for one in fields if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name))
