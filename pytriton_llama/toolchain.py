"""What Triton needs besides Python packages to run on a GPU: it compiles small C launchers there."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path


def missing_for_triton() -> str | None:
    """One line that names the missing Debian packages, or None; only matters on a machine with a GPU.

    It looks where Triton looks (``triton/runtime/build.py``): ``$CC`` alone where set, else gcc or clang,
    never a bare ``cc``. Neither torch nor triton is imported, so that it answers where they cannot be.
    """
    candidates = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    packages = []
    if not any(map(shutil.which, candidates)):
        packages.append("gcc libc6-dev")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        packages.append(f"python{sys.version_info.major}.{sys.version_info.minor}-dev")
    if not packages:
        return None
    return f"Triton cannot compile for the GPU: sudo apt-get install {' '.join(packages)}"


if __name__ == "__main__":  # `make setup` runs this file by itself: the package's import would load torch.
    if complaint := missing_for_triton():
        print(complaint)
