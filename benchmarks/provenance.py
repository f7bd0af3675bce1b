"""What a number was measured with: versions of packages and the commit of this repository."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import neuroshare


def provenance(*packages: str) -> dict[str, Any]:
    """Versions of Python, neuroshare and these packages, and the commit (None outside git).

    A commit that ends in "+" had changes that were not committed.
    """
    own = {"python": platform.python_version(), "neuroshare": neuroshare.__version__}
    commit = git("rev-parse", "--short", "HEAD")
    if git("status", "--porcelain", "--untracked-files=no"):
        commit += "+"
    versions = own | {name: version(name) for name in packages}
    return {"versions": versions, "commit": commit or None}


def git(*arguments: str) -> str:
    """What git says here; nothing where there is no git or no repository."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
