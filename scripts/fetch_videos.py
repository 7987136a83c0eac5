"""Bring the videos of a hub dataset together."""

from moult.job import job
from moult.videos import fetch_videos

if __name__ == "__main__":
    with job(snakemake) as running:
        running.facts = fetch_videos(running.recipe, snakemake.output.videos)
