"""Bring the videos of a hub dataset together."""

from moult.data.videos.fetch import fetch_videos
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        running.facts = fetch_videos(running.recipe, snakemake.output.videos)
