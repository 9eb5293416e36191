"""Kernels of several versions, each installed in a folder that is put into `PYTHONPATH`."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock

FOLDER = Path(__file__).resolve().parents[2] / "build" / "kernels"


def kernel_variables(wanted: str) -> dict[str, str]:
    """The environment in which `python -m ipykernel_launcher` is this version of ipykernel.

    A version that is not installed is installed once with pip, into `build/kernels`, without its
    dependencies, which the installed version already has, except for a small one.
    """
    if version("ipykernel") == wanted:
        return {}
    folder = FOLDER / f"ipykernel-{wanted}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / "lock"):
        if not (folder / "ipykernel_launcher.py").exists():
            packages = (f"ipykernel=={wanted}", "nest-asyncio", "nest-asyncio2")
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
                    *("--disable-pip-version-check", "--target", str(folder), *packages),
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
                pytest.skip(f"ipykernel {wanted} could not be fetched: {reason}")
    # What runs the tests may name the folder of this package.
    others = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), others)))}
