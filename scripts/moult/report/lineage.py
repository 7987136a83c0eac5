"""What was built from what, out of manifests, in words and as a picture."""

from collections import Counter
from pathlib import Path

from moult.base.files import read_json
from moult.data import fields
from moult.objectives import loss_of
from moult.report import graphs

# A larger graph is told by the table below it.
MOST_NODES = 60


def read_manifests(paths, root):
    """Return key → manifest, the key being kind and name (`models/base`), and in words what the artefact is."""
    made = {}
    for path in paths:
        key = Path(path).relative_to(root).as_posix().removesuffix(".manifest.json")
        one = read_json(path)
        kind, name = key.split("/", 1)
        parents = {parent.removeprefix(f"{root.as_posix()}/"): content for parent, content in one["parents"].items()}
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
        case "predict_labels":
            return "", f"{' and '.join(recipe['methods'])} on {recipe['split']}, {recipe['compute']['engine']}"
        case "score_labels" | "score_judgements":
            return "", f"metrics of those {'predictions' if rule == 'score_labels' else 'judgements'}, with intervals"
        case "answer_questions":
            return "", f"{facts['rows']:,} questions answered, temperature {recipe['decoding']['temperature']:g}"
        case "judge_answers":
            who = f"{recipe['model']} against {recipe['against']}"
            return "", f"{who}, judged by {author(recipe['endpoint'])}: {facts['rows']:,} judgements"
        case _:
            return "", ""


def _costly(chosen):
    """Return what is chosen, and of how many beams or samples."""
    return ("best beam", chosen["beams"]) if chosen["method"] == "beam" else ("closest sample", chosen["samples"])


def _loss(recipe):
    """Return the loss over pairs with a comma behind it; nothing where a model is trained on examples."""
    return f"{loss_of(recipe['loss']).words()}, " if "loss" in recipe else ""


def in_order(splits):
    """Return split → what it holds, train first; JSON sorts them by name."""
    return {split: splits[split] for split in fields.SPLITS if split in splits}


def author(endpoint):
    return endpoint.get("model") or endpoint["serve"]


def draw_lineage(made):
    """Return the picture of what was built from what, raw files and predictions left out; None if it is too large.

    A suite gets a dashed edge from each model that it measures, and from those of its datasets that serve nothing else.
    """
    nodes, edges, measured, datasets, asked = {}, [], [], [], {}
    for key, one in made.items():
        parents = [parent for parent in one["parents"] if parent in made]
        if one["kind"] == "predictions":
            suite, model = one["name"].split("/")
            names = asked.setdefault(suite, {})
            names |= one["recipe"]["datasets"]
            detail = ", ".join(names) if len(names) < 4 else f"{len(names)} datasets"
            title = f"{suite}: {', '.join(names)}"
            nodes[f"suites/{suite}"] = {"kind": "suites", "label": suite, "detail": detail, "title": title}
            measured.append((f"models/{model}", f"suites/{suite}"))
            datasets += [(parent, f"suites/{suite}") for parent in parents if parent.startswith("datasets/")]
        elif one["kind"] == "judgements":
            suite, recipe = one["name"].split("/")[0], one["recipe"]
            kind = "corpora" if any(parent.startswith("corpora/") for parent in parents) else "models"
            detail = f"judged by {author(recipe['endpoint'])}"
            title = f"{suite}: {', '.join(recipe['criteria'])}, {detail}"
            nodes[f"suites/{suite}"] = {"kind": "suites", "label": suite, "detail": detail, "title": title}
            measured += [(f"{kind}/{recipe[side]}", f"suites/{suite}") for side in ("model", "against")]
            datasets += [(parent, f"suites/{suite}") for parent in parents if parent.startswith("datasets/")]
        elif one["kind"] not in ("answers", "scores"):
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
