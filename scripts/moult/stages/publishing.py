"""The stage that publishes: a model and its card go to a hub. No part of a whole build, and only if it is asked for."""

import os
from urllib.parse import urlsplit

from moult.base.errors import UserError
from moult.base.rows import Recipe
from moult.base.secrets import key_of
from moult.base.stage import Ref, Stage
from moult.config.experiment import Config
from moult.inference.remote.connection import is_loopback
from moult.weights import publish


def _names(cfg: Config) -> list[tuple[str]]:
    return [(name,) for name in cfg.names("models", "publish")]


def _recipe(cfg: Config, name: str) -> Recipe:
    """Where the model goes, and the licences that decide whether it may."""
    entry = cfg.find("models", name).publish
    behind = [cfg.find("models", one) for one in cfg.ancestors(name)]
    return {
        "model": name,
        "hub": entry.hub,
        "private": entry.private,
        "license": cfg.inherited(name, "license"),
        "ancestors": {one.name: one.license for one in behind if one.fetch or one.license},
        "permitted": sorted(entry.permitted),
        "version": publish.VERSION,
    }


def _inputs(cfg: Config, name: str) -> dict[str, Ref | list[Ref]]:
    """The model, and of the fetched models behind it the manifests, which say what licence their own cards state.

    Raises:
        UserError: what can be known before anything is built, forbids to publish it.
    """
    _refuse(cfg, name)
    fetched = [one for one in (name, *cfg.ancestors(name)) if cfg.find("models", one).fetch]
    return {"model": Ref("models", name), "fetched": [Ref("models", one, "manifest") for one in fetched]}


def _refuse(cfg, name):
    """Raise a UserError without the flag, without a token, for an address that gives it away, and for a licence."""
    entry = cfg.find("models", name).publish
    if not cfg.push:
        raise UserError(
            f"{name} is not published: to send it to {entry.hub}, add `--config push=true` to the command "
            "(with make: `PUSH=yes`)."
        )
    key_of(entry.token, f"{name} is not published to {entry.hub}")
    endpoint = os.environ.get("HF_ENDPOINT", "")
    if urlsplit(endpoint).scheme == "http" and not is_loopback(endpoint):
        raise UserError(
            f"{name} is not published: a token sent over http:// can be read by every machine on the way; write "
            "https:// in HF_ENDPOINT."
        )
    recipe = _recipe(cfg, name)
    # Of a fetched model without `license` its own card has the word, once it is fetched.
    said = {one: license for one, license in recipe["ancestors"].items() if license}
    if recipe["license"] or not cfg.find("models", name).fetch:
        publish.check_licences(recipe | {"ancestors": said}, {})


STAGES = (
    Stage(
        rule="publish_model",
        makes="published",
        doing="publishing the model {model}",
        run="moult.weights.publish:run",
        wildcards=("model",),
        names=_names,
        wanted=lambda cfg: [],
        recipe=_recipe,
        client=lambda cfg, name: {"token": cfg.find("models", name).publish.token},
        inputs=_inputs,
        needs="fetch",
        words=lambda recipe, facts: ("published", f"published as {recipe['hub']} at {facts['revision']}"),
    ),
)
