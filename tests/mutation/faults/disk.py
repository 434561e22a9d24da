"""Faults in what comes onto the disk, and in what is said of a machine."""

_DISK, _PROCESSES, _MACHINE = (f"faults/test_{name}.py::" for name in ("disk", "processes", "machine"))

FAULTS = {
    "llama/entry.py": [
        (
            "entry: written in its place at once",
            'part = own / "folder"\n        fill(part)',
            "part = folder\n        fill(part)",
            f"{_DISK}test_full_from_any_step_on {_DISK}test_killed_before_any_step",
        ),
        (
            "entry: the lock is held on to",
            "os.close(handle)",
            "pass",
            "llama/test_fetch.py::TestImport::test_interrupted_leaves_nothing",
        ),
        (
            "entry: what a killed run left stays",
            "            shutil.rmtree(left)",
            "            pass",
            f"{_DISK}test_killed_before_any_step",
        ),
        (
            "entry: a run killed at its end leaves a folder for good",
            "damaged(folder) or own.exists():",
            "damaged(folder):",
            f"{_DISK}test_killed_before_any_step",
        ),
        (
            "entry: a failed run is not cleaned up after",
            "    finally:\n        shutil.rmtree(own, ignore_errors=True)",
            "    finally:\n        pass",
            f"{_DISK}test_full_from_any_step_on",
        ),
        (
            "entry: nobody waits",
            "            before_waiting()\n            fcntl.flock(handle, fcntl.LOCK_EX)\n",
            "            before_waiting()\n",
            f"{_PROCESSES}test_the_second_waits",
        ),
        (
            "entry: a damaged folder goes before there is a new one",
            '        part = own / "folder"\n',
            '        shutil.rmtree(folder, ignore_errors=True)\n        part = own / "folder"\n',
            f"{_DISK}test_a_damaged_entry_that_cannot_be_made_anew",
        ),
        (
            "entry: a missing file is no damage",
            "if not os.path.isfile(file) or sha256",
            "if os.path.isfile(file) and sha256",
            f"{_DISK}test_a_damaged_entry",
        ),
        (
            "entry: damage is not told",
            "if name := damaged(folder):",
            "if name := None:",
            f"{_DISK}test_a_damaged_entry",
        ),
        (
            "entry: a lock where there is nothing to make",
            "    try:\n        # What",
            "    try:\n        own.mkdir(parents=True, exist_ok=True)\n        # What",
            f"{_DISK}test_a_read_only_cache",
        ),
    ],
    "llama/shards.py": [
        (
            "shards: a full disk is safetensors' own error",
            "raise OSError(str(error)) from error",
            "raise",
            f"{_DISK}test_files_that_end_early",
        )
    ],
    "llama/checkpoint.py": [
        (
            "checkpoint: a file that may not be read is not there",
            '        file.open("rb").close()  # safe_open says "no such file" of one that may not be read\n',
            "",
            f"{_DISK}test_a_weight_file_that_may_not_be_read",
        )
    ],
    "cli.py": [
        (
            "cli: an error of the system is a traceback",
            "    except OSError as error:\n        advice",
            "    except BlockingIOError as error:\n        advice",
            f"{_DISK}test_full_where_stdout_goes {_MACHINE}test_triton_s_cache_is_named",
        ),
        (
            "cli: a full stdout is found at Python's end",
            "        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())\n",
            "",
            f"{_DISK}test_full_where_stdout_goes",
        ),
    ],
    "runtime.py": [
        (
            "runtime: an empty TRITON_INTERPRET is one that is set",
            'if not os.environ.get("TRITON_INTERPRET") and',
            'if "TRITON_INTERPRET" not in os.environ and',
            f"{_MACHINE}test_what_only_a_compiler_needs",
        )
    ],
    "llama/device.py": [
        (
            "device: torch's kernels wait for a GPU",
            '"cpu" if kernels == "torch" and not torch.cuda.is_available() else home',
            "home",
            f"{_MACHINE}test_compiled_kernels_without_a_gpu",
        )
    ],
    "kernels/arguments.py": [
        (
            "arguments: torch says that there is no GPU",
            '        need(torch.cuda.is_available(), f"{op}: {NO_GPU}")\n',
            "",
            f"{_MACHINE}test_triton_imported_first",
        )
    ],
}
