"""`make new STUDY=path`: a folder for a study of one's own, which points at this checkout."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import write_text_atomic
from moult.base.paths import RESOURCES, ROOT

TEMPLATES = RESOURCES / "study"
PROFILES = ("local", "slurm")
# Placeholder of the config's template → file of config/.
REFERENCES = {"schema": "schema.json", "reference": "README.md"}


def new_study(study: Path, checkout: Path = ROOT) -> list[Path]:
    """Write config, README and profiles of a study into the folder `study`; return the files.

    Paths to the checkout are relative where it lies in the study or beside it, so that both can move together, and
    absolute elsewhere. UserError where one of the files is there already.
    """
    study = study.absolute()
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", study.name).strip("-._")[:100] or "study"
    rows = {
        split: json.dumps(_way(study, checkout / f"resources/demo/moods/{split}.tsv")) for split in ("train", "test")
    }
    words = {"name": name, "checkout": _way(study, checkout), **rows}
    words |= {key: _way(study, checkout / "config" / file) for key, file in REFERENCES.items()}
    words |= {"activate": shlex.quote(_way(study, checkout / ".venv/bin/activate"))}
    texts = {path.name: path.read_text(encoding="utf-8").format(**words) for path in sorted(TEMPLATES.iterdir())}
    for profile in PROFILES:
        texts[f"profiles/{profile}/profile.yaml"] = _profile(study, profile, checkout)
    if there := [file for file in texts if (study / file).exists()]:
        raise UserError(f"{study}: holds {', '.join(there)} already, and nothing is overwritten; name another folder.")
    for file, text in texts.items():
        write_text_atomic(study / file, text)
    return [study / file for file in texts]


def _way(start, target):
    """Return the path from the folder `start` to `target`, relative where the checkout is in or beside the study."""
    relative = os.path.relpath(target, start)
    return relative if relative.count("..") <= 1 else str(target)


def _profile(study, profile, checkout):
    """Return a shipped profile with the default one in it, which Snakemake finds beside a Snakefile only."""
    snakefile = checkout / "Snakefile"
    if not os.path.isabs(_way(study, snakefile)):
        # Snakemake takes it as relative to the profile.
        snakefile = os.path.relpath(snakefile, study / "profiles" / profile)
    own = f"snakefile: {json.dumps(str(snakefile), ensure_ascii=False)}\nconfigfile: [config.yaml]"
    always = (checkout / "profiles/default/profile.yaml").read_text(encoding="utf-8").split("\n\n")
    always = [block for block in always[1:] if "configfile:" not in block]
    return "\n\n".join([own, *always, (checkout / f"profiles/{profile}/profile.yaml").read_text(encoding="utf-8")])


def main(arguments: list[str]) -> None:
    """Write the study that the only argument names; end with a sentence where that cannot be."""
    if not arguments or not arguments[0]:
        sys.exit("make new STUDY=path/of/a/folder: say where the study is to be.")
    try:
        files = new_study(Path(arguments[0]))
    except UserError as error:
        sys.exit(str(error))
    print(files[0].read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(sys.argv[1:])
