"""Who answers and how, as recipes say it. `cfg` is a checked config."""

from typing import Any

from moult.base.rows import Recipe
from moult.base.stage import Experiment
from moult.data.fields import Decoding
from moult.inference.since import tokens_recipe


def compute_recipe(cfg: Experiment, model: str) -> Recipe:
    """How a model is run in inference."""
    settings = cfg.compute_of(model)
    return {
        "engine": settings.engine,
        "dtype": settings.dtype,
        "batch_size": settings.batch_size,
        "threads": settings.threads,
    } | tokens_recipe(cfg, model, asked=True)


def endpoint_recipe(cfg: Experiment, name: str) -> Recipe:
    """Who answers, as far as it decides the answer: a served model and how it is run, or a remote address."""
    entry = cfg.find("endpoints", name)
    if entry.serve:
        return {"name": name, "serve": entry.serve, "compute": compute_recipe(cfg, entry.serve)}
    asked = {"name": name, "url": entry.url, "model": entry.model}
    return asked | ({"reasoning_effort": entry.reasoning_effort} if entry.reasoning_effort else {})


def client_of(cfg: Experiment, name: str) -> dict[str, Any] | None:
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
        "max_tokens_as": entry.max_tokens_as,
        "mode": entry.mode,
        "poll": entry.poll,
        "budget": cfg.budget,
        "spending": spending_folder(cfg.name),
    }


def spending_folder(experiment: str) -> str:
    """Return where the jobs of an experiment count what they spend, beside the journals of what it bought."""
    return f"journal/spending/{experiment}"


def decoding_recipe(decoding: Decoding) -> Recipe:
    """How answers are decoded."""
    return {key: getattr(decoding, key) for key in ("temperature", "top_p", "top_k", "max_tokens")}
