"""What Triton needs besides Python packages to run on a GPU: it compiles small C launchers there."""

import os
import shutil
import sys
import sysconfig
import traceback
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


def advice_on_cache(error: BaseException) -> str | None:
    """What to do about an error of Triton's own, of reading or writing files; None for anybody else's."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    if not any(module.startswith("triton.") for module in modules):
        return None
    import triton

    return f"Triton keeps compiled kernels in {triton.knobs.cache.dir}; TRITON_CACHE_DIR names another folder"


if __name__ == "__main__":  # `make setup` runs this file by itself: the package's import would load torch.
    if complaint := missing_for_triton():
        print(complaint)
