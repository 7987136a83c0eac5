"""`make verify`: all hashes of an experiment, those of its manifests and of its journals' rows, against the disk.

A build compares bytes only where a time or a size moved. What rots on a disk moves neither.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from moult.base.errors import UserError
from moult.config.experiment import Config
from moult.config.load import load_file
from moult.inference.journal import copy_of
from moult.jobs.manifest import flaw_of, is_gone, read_manifest
from moult.stages import STAGES


def flaws_of_results(results: Path) -> Iterator[str | None]:
    """Yield for each file of each manifest what is wrong with it, None where nothing is."""
    for path in sorted(results.rglob("*.manifest.json")):
        try:
            manifest = read_manifest(path)
        except UserError as error:
            yield str(error)
            continue
        for name, expected in () if is_gone(path, manifest) else manifest["files"].items():
            wrong = flaw_of(path.parent / name, expected, path, lambda stat: True)
            yield wrong and f"{wrong}; delete the file and build again."


def flaws_of_journals(cfg: Config) -> Iterator[str | None]:
    """Yield for each answer in the journals of an experiment's jobs what is wrong with it, None where nothing is."""
    for stage in STAGES:
        for names in stage.names(cfg):
            path = Path("journal", stage.rule, f"{'/'.join(names)}.sqlite")
            try:
                with copy_of(path) as journal:
                    for key, whole in journal.rows():
                        yield None if whole else f"{path}: answer {key[:16]} is damaged; the next build asks again."
            except FileNotFoundError:
                continue
            except BlockingIOError:
                yield f"{path}: a build is writing to it; look again when that has ended."
            except UserError as error:
                yield str(error)


def main(config: str) -> None:
    """Print what is not as it was made; exit 1 if anything is not."""
    cfg = load_file(config)
    results = Path("results", cfg.name)
    found = {"files": list(flaws_of_results(results)), "stored answers": list(flaws_of_journals(cfg))}
    wrong = [flaw for flaws in found.values() for flaw in flaws if flaw]
    print("\n".join(wrong), end="\n" if wrong else "")
    counts = " and ".join(f"{len(flaws):,} {name}" for name, flaws in found.items())
    print(f"{results}: {counts}, {len(wrong) or 'none'} of them damaged.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except UserError as error:
        sys.exit(str(error))
