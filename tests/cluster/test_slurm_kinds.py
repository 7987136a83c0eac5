"""Every rule once on a real Slurm: a small experiment of each part of Moult, each job where it belongs."""

import pytest
from moult.stages import BY_RULE
from slurm_cluster import AT_LENGTH, disjoint
from slurm_parts import PARTS

# The others are in test_slurm_build.py.
KINDS = sorted(PARTS.keys() - {"small", "whole"})


@AT_LENGTH
@pytest.mark.parametrize("name", KINDS)
def test_it_runs_where_its_needs_call_for(name, build):
    folder, jobs, on_gpus = build(name)
    disjoint(on_gpus)
    if name == "passing":
        # What passes is published before it is gone.
        files = folder.repos["me/merged"].files
        assert files["model.safetensors"][1] and b"merge by linear" in files["README.md"][0]
        results = folder.path / "results/brief"
        assert [path.name for path in (results / "models").iterdir() if path.is_dir()] == ["base"]
    if name == "sweep":
        # What was chosen by scores is scored in turn, which is not done in one Slurm job with the former.
        groups = {
            job["Comment"].split("_score_labels")[0] for job in jobs.values() if "_score_labels" in job["Comment"]
        }
        assert groups == {"rule_scores", "rule_scores_1"}


def test_every_rule_is_run_by_a_part(tmp_path, monkeypatch):
    run = set()
    for name, part in ((name, part) for name, part in PARTS.items() if "all" in part.targets):
        (tmp_path / name).mkdir()
        folder = part.folder(tmp_path / name, None)
        monkeypatch.chdir(folder.path)
        run |= part.rules(folder.config)
    assert run == BY_RULE.keys()
