"""What was built from what, out of manifests, in words and as a picture."""

from collections import Counter
from pathlib import Path

from moult.base.files import read_json
from moult.data import fields
from moult.evaluation.suites import KINDS
from moult.report import graphs

# A larger graph is told by the table below it.
MOST_NODES = 60


def read_manifests(paths, root, kinds=KINDS):
    """Return key → manifest, the key being kind and name (`models/base`), and in words what the artefact is. kinds: of
    suites, whose measurements are among them."""
    made, told = {}, {rule: words for kind in kinds for rule, words in kind.words.items()}
    for path in paths:
        key = Path(path).relative_to(root).as_posix().removesuffix(".manifest.json")
        one = read_json(path)
        kind, name = key.split("/", 1)
        parents = {parent.removeprefix(f"{root.as_posix()}/"): content for parent, content in one["parents"].items()}
        if words := told.get(one["rule"]):
            short, long = "", words(one["recipe"], one["facts"])
        else:
            short, long = _in_words(one["rule"], one["recipe"], one["facts"])
        size = sum(file["size"] for file in one["files"].values())
        made[key] = one | {"key": key, "kind": kind, "name": name, "parents": parents}
        made[key] |= {"short": short, "long": long, "size": size}
    return made


def _in_words(rule, recipe, facts):
    """Return what a manifest says of its artefact, in few words for a picture and in more for a table."""
    match rule:
        case "prepare_dataset":
            rows = " · ".join(f"{one['rows']:,} {split}" for split, one in in_order(facts["splits"]).items())
            return rows, f"{recipe['format']} rows, task {recipe['task']}: {rows}"
        case "generate_guidelines" | "distill_answers":
            by = author(recipe["endpoint"])
            decoding = recipe["decoding"]
            limits = f"temperature {decoding['temperature']:g}, at most {decoding['max_tokens']} tokens"
            return (
                f"{facts['rows']:,} rows by {by}",
                f"{facts['rows']:,} rows written by {by}, {limits}",
            )
        case "refine_answers":
            by, judge = author(recipe["endpoint"]), author(recipe["judge"])
            accepted = f"{facts['rows']:,} of {facts['rows_in']:,} rows by {by}"
            often = f"at most {recipe['max_iterations']} answers each, {facts['revised']:,} accepted after revision"
            return accepted, f"{accepted}, accepted by {judge}; {often}"
        case "contrast_answers":
            by, (way, number) = author(recipe["endpoint"]), _costly(recipe["chosen"])
            pairs = f"{facts['rows']:,} pairs by {by}"
            return pairs, f"{pairs}, chosen: the {way} of {number}"
        case "finetune_full" | "optimise_full":
            loss, data = _loss(recipe), ", ".join(recipe["data"])
            steps = f"{loss}all weights, {facts['steps']:,} steps"
            rate = f"learning rate {recipe['learning_rate']:g}"
            return steps, f"{loss}all weights, {rate}, {facts['steps']:,} steps on {data}"
        case "finetune_lora" | "optimise_lora":
            lora = f"{_loss(recipe)}LoRA rank {recipe['lora']['rank']}"
            data = ", ".join(recipe["data"])
            rate = f"alpha {recipe['lora']['alpha']:g}, learning rate {recipe['learning_rate']:g}"
            return f"{lora}, {facts['steps']:,} steps", f"{lora}, {rate}, {facts['steps']:,} steps on {data}"
        case "fetch_model":
            source = recipe["source"]
            place = source.get("hub") or source.get("package") or "a local folder"
            pin = source.get("revision") or source.get("version") or "as it was"
            count = facts["parameters"]
            size = f"{count / 1e9:.3g} B parameters" if count >= 1e9 else f"{count / 1e6:.3g} M parameters"
            return size, f"{place}, {pin}: {size}"
        case "fold_adapter":
            return "adapter folded in", f"the adapter folded into {recipe['base']}"
        case "merge_models":
            parents = [
                parent["model"] + "".join(f", {key} {parent[key]}" for key in ("weight", "density") if key in parent)
                for parent in recipe["parents"]
            ]
            onto = f" on {recipe['base']}" if recipe["base"] else ""
            return f"{recipe['method']} merge", f"{recipe['method']} of {'; '.join(parents)}{onto}"
        case _:
            return "", ""


def _costly(chosen):
    """Return what is chosen, and of how many beams or samples."""
    return ("best beam", chosen["beams"]) if chosen["method"] == "beam" else ("closest sample", chosen["samples"])


def _loss(recipe):
    """Return the loss over pairs with a comma behind it; nothing where a model is trained on examples."""
    if "loss" not in recipe:
        return ""
    loss = recipe["loss"]
    return f"DPO beta {loss['beta']:g}, " if loss["kind"] == "dpo" else f"contrastive margin {loss['margin']:g}, "


def in_order(splits):
    """Return split → what it holds, train first; JSON sorts them by name."""
    return {split: splits[split] for split in fields.SPLITS if split in splits}


def author(endpoint):
    return endpoint.get("model") or endpoint["serve"]


def measurements_of(suite, kind, made):
    """Return the manifests of a suite's measurements, in their order."""
    return [one for one in made.values() if one["kind"] == kind.measurement and one["name"].split("/")[0] == suite]


def draw_lineage(made, kinds=KINDS):
    """Return the picture of what was built from what, raw files and measurements left out; None if it is too large.

    A suite gets a dashed edge from each model that it measures, and from those of its datasets that serve nothing else.
    """
    nodes, edges, measured, datasets = {}, [], [], []
    kind_by_rule = {rule: kind for kind in kinds for rule in kind.words}
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


def package_versions(made):
    """Return package → version → how many artefacts were made with it."""
    versions = {}
    for one in made.values():
        for package, version in one["versions"].items():
            versions.setdefault(package, Counter())[version] += 1
    return dict(sorted(versions.items()))


def stale_parents(made):
    """Return (artefact, parent) where the parent is no longer what the artefact was made from."""
    return [
        (key, parent)
        for key, one in made.items()
        for parent, content in one["parents"].items()
        if parent in made and made[parent]["content"] != content
    ]
