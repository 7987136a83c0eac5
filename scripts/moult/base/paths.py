"""Where the files are that come with Moult."""

from pathlib import Path

# What has to be on Python's path for `import moult`.
CODE = Path(__file__).parents[2]
ROOT = CODE.parent
RESOURCES = ROOT / "resources"
