"""Checks across entries, beyond pydantic: unknown and repeated names, cycles, secrets. Each mistake is one sentence."""

import re
from collections.abc import Iterator
from typing import Any

from moult.base.errors import nearest
from moult.config.entries.evaluations import MEASURED
from moult.config.experiment import Config
from moult.evaluation.suites import KINDS

# The files beside an artefact end so; a name may not.
SUFFIXES = (".manifest", ".rejects", ".usage", ".recipe", ".csv", ".json", ".jsonl", ".svg")


def _known(kind, entry, field, name, known):
    if name not in known:
        return [f"{kind} {entry!r}, {field}: {name!r} is not there{nearest(name, known)}"]
    return []


def _of_shape(cfg, kind, entry, field, name, shape):
    """Yield a sentence where a name is no dataset, or is one whose rows have another shape than `shape`, or several."""
    shapes = (shape,) if isinstance(shape, str) else shape
    shape = " or ".join(shapes)
    usable = {one.name for one in cfg.datasets if one.shape in shapes}
    if name in cfg.by_name["datasets"] and name not in usable:
        found = cfg.find("datasets", name).shape
        there = ", ".join(sorted(usable)) or f"no dataset of {shape}"
        yield f"{kind} {entry!r}, {field}: the rows of {name!r} are {found}, not {shape}; there is {there}"
    else:
        yield from _known(kind, entry, field, name, usable)


def unknown_names(cfg: Config) -> Iterator[str]:
    """Yield a sentence for every name that no entry has, and for every entry that cannot be what it is used as.

    A name that is missing in several places is one mistake.
    """
    places: dict[str, list[str]] = {}
    for sentence in _unknown_names(cfg):
        place, _, told = sentence.partition(": ")
        if "is not there" in told:
            places.setdefault(told, []).append(place)
        else:
            yield sentence
    for told, (first, *others) in places.items():
        also = f" (also in {others[0]}{f' and {len(others) - 1} more' if len(others) > 1 else ''})" if others else ""
        yield f"{first}{also}: {told}"


def _unknown_names(cfg):
    models, datasets, corpora = (set(cfg.names(kind)) for kind in ("models", "datasets", "corpora"))
    endpoints, suites = set(cfg.names("endpoints")), set(cfg.names("suites"))
    students = {corpus.endpoint for corpus in cfg.corpora if _is_written_out(cfg, corpus)}
    for endpoint in cfg.endpoints:
        if endpoint.serve is not None and endpoint.name not in students:
            yield from _known("endpoints", endpoint.name, "serve", endpoint.serve, models)
    guidelines, answers, pairs = (
        {entry.name for entry in cfg.corpora if entry.writes == what} for what in ("guidelines", "answers", "pairs")
    )
    fused = {entry.name for entry in cfg.corpora if entry.writes == "pairs" and entry.has_sources}
    for corpus in cfg.corpora:
        if _is_written_out(cfg, corpus):
            continue
        for field, name in corpus.endpoints.items():
            yield from _known("corpora", corpus.name, field, name, endpoints)
        # An empty name is none either.
        if corpus.dataset is not None:
            yield from _of_shape(cfg, "corpora", corpus.name, "dataset", corpus.dataset, corpus.shape)
        if getattr(corpus, "guidelines", None) is not None:
            yield from _known("corpora", corpus.name, "guidelines", corpus.guidelines, guidelines)
        if getattr(corpus, "corpus", None) is not None and corpus.takes is None:
            yield from _known("corpora", corpus.name, "corpus", corpus.corpus, corpora)
        elif corpus.takes is not None:
            taken = {entry.name for entry in cfg.corpora if entry.writes == corpus.takes}
            for field, names in corpus.reads.items():
                for name in [names] if isinstance(names, str) else names:
                    yield from _known("corpora", corpus.name, f"{field} (corpora of {corpus.takes})", name, taken)
        for field, name in corpus.models.items():
            yield from _known("corpora", corpus.name, field, name, models)
    unanswered = {entry.name for entry in cfg.datasets if entry.answered_rows == "none"}
    trainable = datasets - unanswered | answers
    for entry in cfg.rounds:
        yield from _known("rounds", entry.name, "base", entry.base, models)
        yield from _of_shape(cfg, "rounds", entry.name, "dataset", entry.dataset, "questions")
        yield from _known("rounds", entry.name, "judge", entry.judge, endpoints)
    pairs |= {entry.name for entry in cfg.datasets if entry.shape == "pairs"}
    for model in cfg.models:
        if _is_written_out(cfg, model):
            continue
        for parent in model.parents:
            yield from _known("models", model.name, "base or parents", parent, models)
        if model.select:
            yield from _known("models", model.name, "select, suite", model.select.suite, suites)
        for name in model.finetune.data if model.finetune else []:
            if name in pairs & datasets:
                yield f"models {model.name!r}, data: the rows of {name!r} are preference pairs; write `optimise`"
            elif name in unanswered:
                yield f"models {model.name!r}, data: the rows of {name!r} have no answer to train on; name other data"
            else:
                yield from _known("models", model.name, "data", name, trainable)
        for name in model.optimise.data if model.optimise else []:
            yield from _known("models", model.name, "data (preference pairs)", name, pairs)
            if model.optimise.loss.needs_sources and name in pairs - fused:
                yield (
                    f"models {model.name!r}, loss: {model.optimise.loss.kind} learns from answers of sources, and the "
                    f"pairs of {name!r} have none; name other data, or another loss"
                )
    for suite in cfg.suites:
        kind, settings = suite.kind, suite.settings
        for name in settings.datasets:
            wrong = list(_of_shape(cfg, "suites", suite.name, "datasets", name, kind.shape))
            yield from wrong
            if not wrong and settings.split not in _splits(cfg.find("datasets", name), kind):
                told = f"dataset {name!r} has no file for {settings.split!r}; name one, or another split"
                yield f"suites {suite.name!r}, split: {told}"
        for name in settings.endpoints.values():
            yield from _known("suites", suite.name, "endpoint", name, endpoints)
    judged = {corpus.name for corpus in cfg.corpora if corpus.judged}
    for evaluation in cfg.evaluations:
        yield from _known("evaluations", evaluation.suite, "suite", evaluation.suite, suites)
        for name in evaluation.models:
            yield from _known("evaluations", evaluation.suite, "models", name, models)
        for name in evaluation.corpora:
            yield from _known("evaluations", evaluation.suite, "corpora", name, judged)
        beside = {name for entry in cfg.evaluations if entry.suite == evaluation.suite for name in entry.measured}
        if evaluation.suite in suites:
            suite = cfg.find("suites", evaluation.suite)
            beside |= set(suite.kind.beside(suite.settings))
        for name in evaluation.against:
            if name not in beside:
                yield (
                    f"evaluations {evaluation.suite!r}, against: {name!r} is not measured by this suite"
                    f"{nearest(name, beside)}"
                )
        if evaluation.suite in suites and "settings" in cfg.find("suites", evaluation.suite).kind.measures:
            yield from _unknown_members(cfg, evaluation, models)


def _unknown_members(cfg, evaluation, models):
    """Yield a sentence for every dataset of a suite that a setting has no model for."""
    datasets = cfg.find("suites", evaluation.suite).settings.datasets
    for setting in evaluation.settings:
        place = f"evaluations {evaluation.suite!r}, setting {setting.name!r}"
        if setting.name in models:
            yield f"{place}: a model has this name; give the setting another"
        for dataset in datasets:
            name = setting.model_for(dataset)
            if name is None:
                yield f"{place}: no model for the dataset {dataset!r}; means would run over other datasets"
            elif name not in models:
                yield f"{place}, {dataset}: model {name!r} is not there{nearest(name, models)}"


def _is_written_out(cfg, entry):
    """Whether a corpus or model came out of `rounds`, where a wrong name is told."""
    place = getattr(entry, "round", None)
    return place is not None and place.of in cfg.by_name["rounds"]


def _splits(dataset, kind):
    """Return the splits of a dataset that a kind of suite may measure on: those of files, and those it may carve."""
    carved = {"test": dataset.test_fraction, "dev": dataset.dev_fraction}
    carved = {split for split in kind.carved if carved[split] and "train" in dataset.files}
    return {*dataset.files, *carved}


def evaluations(cfg: Config) -> Iterator[str]:
    """Yield a sentence for every evaluation that asks of a kind of suite what it cannot do."""
    for entry in cfg.evaluations:
        kind, place = cfg.find("suites", entry.suite).kind, f"evaluations {entry.suite!r}"
        if entry.reference and entry.reference.table not in kind.published:
            tables = " or ".join(kind.published)
            known = f"of a {kind.title} suite is `table: {tables}`"
            right = known if tables else f"no table has values of a {kind.title} suite"
            yield f"{place}, reference: {right}"
        for field in MEASURED:
            if getattr(entry, field) and field not in kind.measures:
                yield f"{place}, {field}: {kind.refusal}"
    for kind in KINDS:
        yield from kind.checks(cfg)


def repeated_names(cfg: Config) -> Iterator[str]:
    """Yield a sentence for every name that stands twice or that the files of a build need for themselves."""
    for kinds in (["datasets", "corpora"], ["endpoints"], ["models"], ["suites"], ["rounds"]):
        names = [name for kind in kinds for name in cfg.names(kind)]
        for name, *others in _meeting(names):
            if others == [name]:
                yield f"{' and '.join(kinds)}: the name {name!r} stands twice; a name is a path, give each its own"
            else:
                told = f"the names {' and '.join(map(repr, [name, *others]))} differ in case alone"
                yield f"{' and '.join(kinds)}: {told}; on some disks they are one path, so rename one"
        for name in dict.fromkeys(names):
            yield from _reserved(f"{kinds[0]} {name!r}", name)
    for entry in cfg.evaluations:
        for setting in entry.settings:
            yield from _reserved(f"evaluations {entry.suite!r}, setting {setting.name!r}", setting.name)
    measured = [f"{entry.suite}/{name}" for entry in cfg.evaluations for name in entry.measured]
    for name, *others in _meeting(measured):
        suite, what = name.split("/", 1)
        same = "stands twice" if others == [name] else f"and {others[0].split('/', 1)[1]!r} differ in case alone"
        yield f"evaluations: model or setting {what!r} {same} under suite {suite!r}; leave one out"
    for place, listed in _lists(cfg):
        for name, *_ in _meeting(listed):
            yield f"{place}: {name!r} stands twice; leave one out"


def passing(cfg: Config) -> Iterator[str]:
    """Yield a sentence for every model that is to be there for a while only, and that nothing needs."""
    for model in cfg.models:
        if not (model.keep or model.publish or model.name in cfg.used_models):
            yield f"models {model.name!r}, keep: nothing needs it, so that it would never be there; measure or keep it"


def published(cfg: Config) -> Iterator[str]:
    """Yield a sentence for every repository of a hub that two models would be published to."""
    for hub, *_ in _meeting([model.publish.hub for model in cfg.models if model.publish]):
        yield f"models, publish: two go to {hub}, where one would take the other's place; give each its own"


def _reserved(place, name):
    if name.lower() in ("mean", "weighted_mean"):
        yield f"{place}: the score tables call their means so; take another name"
    if name.lower().endswith(SUFFIXES):
        yield f"{place}: a name may not end in {', '.join(SUFFIXES)}; take another name"


def _meeting(names):
    """Return the names that are one path on a disk that knows no case, in lists of two and more."""
    found = {}
    for name in names:
        found.setdefault(name.lower(), []).append(name)
    return [list(dict.fromkeys(same)) if len(set(same)) > 1 else same[:2] for same in found.values() if len(same) > 1]


def _lists(cfg):
    """Yield (place, names) of each list in which a name that stands twice means nothing."""
    for corpus in cfg.corpora:
        yield f"corpora {corpus.name!r}, splits", corpus.splits
    for suite in cfg.suites:
        yield f"suites {suite.name!r}, datasets", suite.settings.datasets
        yield f"suites {suite.name!r}, methods", getattr(suite.settings, "methods", [])
    for entry in cfg.evaluations:
        yield f"evaluations {entry.suite!r}, against", entry.against


def remote_endpoints(cfg: Any) -> list[Any]:
    """Return the remote endpoints that a corpus or a judge asks."""
    asking = [*cfg.corpora, *(suite.settings for suite in cfg.suites)]
    names = dict.fromkeys(name for one in asking for name in one.endpoints.values())
    names |= {name: None for kind in KINDS for what, name in kind.uses(cfg) if what == "endpoints"}
    return [endpoint for endpoint in (cfg.find("endpoints", name) for name in names) if endpoint.url]


def budget_without_price(cfg: Any) -> Iterator[str]:
    """Yield a sentence for every remote endpoint whose answers a budget could not count."""
    if cfg.budget is None:
        return
    for endpoint in remote_endpoints(cfg):
        if not endpoint.price:
            yield (
                f"endpoints {endpoint.name!r}, price: is missing, but there is a `budget`; write `price: {{input: ..., "
                "output: ...}`, US dollars per million tokens"
            )


def cycle(cfg: Config) -> Iterator[str]:
    """Yield one sentence for a cycle models → corpora → endpoints → models."""
    edges = {}
    for endpoint in cfg.endpoints:
        edges[f"endpoint {endpoint.name}"] = [f"model {endpoint.serve}"] if endpoint.serve else []
    for corpus in cfg.corpora:
        edges[f"corpus {corpus.name}"] = [f"endpoint {name}" for name in corpus.endpoints.values()]
        read = [[names] if isinstance(names, str) else names for names in corpus.reads.values()]
        edges[f"corpus {corpus.name}"] += [f"corpus {name}" for names in read for name in names]
        edges[f"corpus {corpus.name}"] += [f"model {name}" for name in corpus.models.values()]
    for model in cfg.models:
        data = model.training.data if model.training else []
        edges[f"model {model.name}"] = [f"model {name}" for name in model.parents] + [
            f"corpus {name}" for name in data if f"corpus {name}" in edges
        ]
        if model.select and model.select.suite in cfg.by_name["suites"]:
            asked = cfg.find("suites", model.select.suite).settings.endpoints.values()
            edges[f"model {model.name}"] += [f"endpoint {name}" for name in asked]
    if found := _cycle_in(edges):
        told = " ← ".join(found)
        yield f"a cycle, nothing could be built first: {told}; let one of them name something else"


def _cycle_in(edges):
    """Return the first cycle of a graph (node → its targets) as a path that ends where it begins, None if there is
    none. Not recursive: a thousand rounds are a path of thousands."""
    done = set()
    for start in edges:
        # The path so far, each node with the targets that are still to be seen.
        path = {} if start in done else {start: iter(edges[start])}
        while path:
            node = next(reversed(path))
            for target in path[node]:
                if target in path:
                    nodes = list(path)
                    return nodes[nodes.index(target) :] + [target]
                if target not in done:
                    path[target] = iter(edges.get(target, ()))
                    break
            else:
                done.add(node)
                del path[node]
    return None


def precision(cfg: Config) -> Iterator[str]:
    """Yield a sentence for each training whose dtype would round small updates away or overflow."""
    for model in cfg.models:
        tuned = model.training
        if not tuned or cfg.compute_of(model.name).dtype != "float16":
            continue
        if tuned.method == "full" or (tuned.devices > 1 and tuned.zero == 3):
            yield f"models {model.name!r}: float16 would need loss scaling; set compute.dtype to bfloat16 or float32"


def corpora(cfg: Config) -> Iterator[str]:
    """Yield a sentence for each thing that a corpus asks of an endpoint that cannot do it."""
    for corpus in cfg.corpora:
        served = {field: cfg.find("endpoints", name).serve for field, name in corpus.endpoints.items()}
        yield from corpus.mistakes({field: name and cfg.compute_of(name).engine for field, name in served.items()})
        yield from (f"corpora {corpus.name!r}, {sentence}" for sentence in corpus.checks(cfg))


def selections(cfg: Config) -> Iterator[str]:
    """Yield a sentence for every selection that could not be made, or would be made by what it is to be tested on."""
    for model in cfg.models:
        if not (entry := model.select):
            continue
        place, suite = f"models {model.name!r}, select", cfg.find("suites", entry.suite)
        kind, settings = suite.kind, suite.settings
        if settings.split != "dev":
            yield f"{place}: suite {suite.name!r} measures on {settings.split}; name one with `split: dev`"
        metrics = {kind.headline.metric, *kind.metrics}
        if entry.metric and entry.metric not in metrics:
            yield f"{place}, metric: a {kind.title} suite has no {entry.metric!r}{nearest(entry.metric, metrics)}"
        methods = getattr(settings, "methods", kind.methods)
        if entry.method and entry.method not in methods:
            yield f"{place}, method: suite {suite.name!r} has no {entry.method!r}{nearest(entry.method, methods)}"
        known = {*settings.datasets, "mean", "weighted_mean"}
        if entry.dataset not in known:
            yield f"{place}, dataset: suite {suite.name!r} has no {entry.dataset!r}{nearest(entry.dataset, known)}"
        if not entry.race:
            for name in entry.among:
                if (suite.name, name) not in cfg.evaluation_of:
                    yield f"{place}: {name!r} is not measured by suite {suite.name!r}; add it to `evaluations`"
        elif kind.race is None:
            yield f"{place}, race: single rows of a {kind.title} suite have no score; leave out `race`"
        elif entry.metric not in (None, kind.headline.metric):
            yield f"{place}, metric: rows are raced by {kind.headline.metric}; leave out `race`, or `metric`"
        elif entry.dataset != "weighted_mean" and len(settings.datasets) > 1:
            yield f"{place}, dataset: a race counts all rows alike; write `dataset: weighted_mean`"


SECRET = re.compile(r"^(sk-|hf_|ghp_|github_pat_|gsk_|xai-|AKIA)[A-Za-z0-9_-]{12,}$|://[^/@\s]+:[^/@\s]+@")
SECRET_KEYS = {"api_key", "apikey", "token_value", "password", "secret", "access_token", "hf_token"}


def secrets(value: Any, where: str = "") -> Iterator[str]:
    """Yield a sentence for whatever in a raw config looks like a key or a password; it is not repeated."""
    if isinstance(value, dict):
        for key, item in value.items():
            if str(key).lower() in SECRET_KEYS:
                yield f"{where}.{key}: keys do not stand in a config; write `key: MY_VARIABLE` and export MY_VARIABLE"
            yield from secrets(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from secrets(item, f"{where}[{index}]")
    elif isinstance(value, str) and SECRET.search(value):
        yield f"{where}: looks like a secret (not shown); keep it in an environment variable and name that here"
