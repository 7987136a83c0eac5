"""Where the time of a build went, from the logs of its jobs."""

from moult.jobs.timing import startup_table


def test_timing_reads_the_logs(tmp_path):
    (tmp_path / "train").mkdir()
    text = "10:00:00 +0.1 s train x\n10:00:05 +5.0 s ready: go\n10:00:20 +20.0 s done in 19.9 s\n"
    (tmp_path / "train" / "x.log").write_text(text)
    (tmp_path / "train" / "killed.log").write_text("10:00:00 +0.1 s train y\n")
    assert startup_table(tmp_path)[1].split() == ["train", "1", "20.0", "25%"]
