"""Models that pass, and one that is published, on a real Slurm."""

import os
import shutil

import pytest
from hub_server import PublishingHub
from pico_variants import passing_config
from slurm_cluster import ClusterFolder

TOKEN = "hf_canary_0123456789"


class Publisher(ClusterFolder):
    """A folder whose jobs find a hub, and have a token for it."""

    hub = ""

    def environment(self):
        return super().environment() | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": self.hub, "MY_TOKEN": TOKEN}


@pytest.mark.skipif(not os.environ.get("MOULT_CLUSTER_FAULTS"), reason="MOULT_CLUSTER_FAULTS is not set")
def test_a_model_that_passes_is_published_and_gone(inputs, tmp_path, server, cluster):
    folder = Publisher(shutil.copytree(inputs, tmp_path / "work"), server)
    config = passing_config()
    config["models"][2] |= {"publish": {"hub": "me/merged", "token": "MY_TOKEN"}, "license": "CC0-1.0"}
    folder.config = config
    with PublishingHub({TOKEN: {"me"}}) as hub:
        folder.hub = hub.url
        run = folder.snakemake("publish", "--config", "push=true")
    assert run.returncode == 0, run.stdout + run.stderr
    jobs = cluster.jobs(folder.path)
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    ran = {path.name for path in (folder.path / "logs/brief").iterdir()}
    assert ran >= {"fold_briefly", "merge_briefly", "publish_model"}
    files = hub.repos["me/merged"].files
    assert files["model.safetensors"][1] and b"merge by linear" in files["README.md"][0]
    results = folder.path / "results/brief"
    assert (results / "published/merged.json").exists()
    assert [path.name for path in (results / "models").iterdir() if path.is_dir()] == ["base"]
