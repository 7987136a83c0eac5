"""Print what each merge method of the installed mergekit takes, as the JSON beside this file: part of `make schema`.

Planning reads the JSON, because importing mergekit takes seconds. A method of a newer mergekit appears with it.
"""

import json
from importlib.metadata import version
from typing import Any


def contracts() -> dict[str, Any]:
    """Return mergekit's version and, per method, its title, reference, rules for inputs and parameters."""
    from mergekit.merge_methods.registry import registered_methods

    specs = sorted((method.spec for method in registered_methods()), key=lambda spec: spec.name)
    return {"mergekit": version("mergekit"), "methods": {spec.name: _contract(spec) for spec in specs}}


def _contract(spec):
    rules = spec.contract
    return {
        "title": spec.pretty_name,
        "reference": spec.reference_url,
        "base": rules.base.value,
        "inputs": [rules.min_inputs, rules.max_inputs],
        "without_base": [rules.min_non_base, rules.max_non_base],
        "parameters": {parameter.name: _parameter(parameter) for parameter in spec.parameters},
    }


def _parameter(parameter):
    # An optional value of its type: what counts is the type that a user may write.
    type_ = next((one for one in getattr(parameter.value_type, "__args__", ()) if one is not type(None)), None)
    settings = {"type": (type_ or parameter.value_type).__name__, "scope": parameter.scope.value}
    return settings if parameter.required else settings | {"default": parameter.default}


if __name__ == "__main__":
    print(json.dumps(contracts(), indent=1))
