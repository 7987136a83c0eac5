"""The JSON schema of the config, for editors: `python -m moult.config.schema`."""

from typing import Any

from moult.config import presets
from moult.config.entries.corpora import CORPORA
from moult.config.experiment import Config


def schema() -> dict[str, Any]:
    """Return the JSON schema of the config, for editors; `for` is allowed in every named entry."""
    document = Config.model_json_schema()
    kinds = [kind.__name__ for kind in CORPORA.values()]
    for name in ("Dataset", "Endpoint", *kinds, "Model", "Suite", "Evaluation", "Rounds"):
        document["$defs"][name]["properties"]["for"] = {
            "type": "object",
            "additionalProperties": {"type": "array"},
            "description": "Axis → list of values. The entry is written out once per combination of values, {axis} "
            "standing for the value.",
        }
    # A dataset_info.json may say the rest.
    document["$defs"]["Dataset"]["required"] = ["name"]
    told = "Named training settings of resources/presets; keys that stand beside `preset` win."
    preset = {"enum": presets.preset_names(), "description": told}
    for name in ("Finetune", "Optimise"):
        document["$defs"][name]["properties"]["preset"] = preset
    told = "Named settings of resources/presets/lm_eval; keys that stand beside `preset` win."
    suites = {"enum": presets.preset_names("lm_eval"), "description": told}
    document["$defs"]["LmEvalSuite"]["properties"]["preset"] = suites
    # A preset may name them.
    document["$defs"]["LmEvalSuite"]["required"] = []
    for name, way in (("Merge", "merge"), ("Mixture", "moe")):
        told = "Named settings of resources/presets/merging; what stands beside `preset` wins, of each parent its own."
        document["$defs"][name]["properties"]["preset"] = {"enum": presets.preset_names(way), "description": told}
        document["$defs"][name]["required"] = []
    document["properties"]["$schema"] = {"type": "string", "description": "Where an editor finds this schema."}
    return document


if __name__ == "__main__":
    import json

    print(json.dumps(schema(), indent=2, sort_keys=True))
