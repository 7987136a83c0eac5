"""What jobs used of what they had asked for, from Snakemake's benchmark files."""

import pytest
from moult.base.errors import UserError
from moult.config.load import load
from moult.planning.efficiency import efficiency_table, main

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
CONFIG = {"name": "x", "models": [{"name": "base", "fetch": {"path": "b"}, "parameters": 1}]}


def test_shares_are_of_what_was_asked_for(tmp_path):
    (tmp_path / "fetch_model").mkdir()
    # 1 B in float32 asks for 2 + 4 × 1 GB and 15 min.
    (tmp_path / "fetch_model" / "base.tsv").write_text(HEADER + "450\t0:07:30\t3000\t0\t0\t0\t0\t0\t0\t225\n")
    (tmp_path / "fetch_model" / "gone.tsv").write_text(HEADER + "450\t0:07:30\t3000\t0\t0\t0\t0\t0\t0\t225\n")
    (tmp_path / "write_report.tsv").write_text(HEADER + "0.5\t0:00:00\tNA\tNA\tNA\tNA\tNA\tNA\tNA\tNA\n")
    assert efficiency_table(load(CONFIG), tmp_path) == [["fetch_model", "1", "7.5 min", "3000 MB", "50%", "50%", "50%"]]


def test_nothing_built_is_said(tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_text("name: x\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nothing has been built of x.yaml"):
        main("x.yaml")
