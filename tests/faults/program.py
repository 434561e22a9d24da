"""The program with a fault planted under it. Run as a script it is a server: it has imported everything once, and each
run is a fork of it, so that a run takes milliseconds.

A request is a line of JSON, the keyword arguments of :func:`run`; the answer is one too: exit code, stdout, stderr,
steps. A *step* is what changes the disk: a file opened for writing, a folder made, a file or folder renamed or removed.
"""

import ctypes
import errno
import json
import os
import resource
import sys
from contextlib import suppress

from pytriton_llama import cli
from pytriton_llama.llama import generator, gguf, quantize, shards  # noqa: F401 (what the commands import)

_NEEDS_SPACE = ("open", "os.mkdir", "save_file")
_STEPS = (*_NEEDS_SPACE, "os.rename", "os.remove", "os.rmdir", "os.chmod")


def run(argv, cache, fault=None, at=0, largest=None, unprivileged=False):
    """Run the program; never returns.

    ``fault``: a signal, sent by the process to itself before step ``at``, or "full": from step ``at`` on there is no
    space left. ``largest``: bytes that a file can have. ``unprivileged``: root is bound by permissions like others.
    """
    os.environ |= {"PYTRITON_LLAMA_CACHE": cache}
    sys.argv = ["pytriton-llama", *argv]
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if unprivileged:
        # An empty set of capabilities, in the third version of their layout.
        ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
    count = _plant(os.path.dirname(cache), fault, at)
    code = 1
    try:
        cli.main()
    except SystemExit as exit_:
        code = exit_.code or 0
    except BaseException as error:
        print(f"Traceback: {error!r}", file=sys.stderr, flush=True)
    finally:
        with suppress(OSError):
            os.write(3, str(count[0]).encode())
        os._exit(code)


def _plant(within, fault, at):
    """Count steps, and do ``fault`` at one of them."""
    count = [0]

    def hook(event, arguments):
        if event not in _STEPS or (event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        path = os.fspath(arguments[0])
        if isinstance(path, int) or (os.path.isabs(path) and not path.startswith(within)):
            return
        count[0] += 1
        if fault == "full" and count[0] > at and event in _NEEDS_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if fault not in (None, "full") and count[0] == at + 1:
            os.kill(os.getpid(), fault)

    save_file = shards.save_file

    def audited(tensors, file, **options):  # it writes beside Python
        sys.audit("save_file", file)
        save_file(tensors, file, **options)

    shards.save_file = audited
    sys.addaudithook(hook)
    return count


def _serve(request):
    pipes = [os.pipe() for _ in range(3)]
    child = os.fork()
    if child == 0:
        for target, (_, write) in enumerate(pipes, start=1):
            os.dup2(write, target)
        run(**request)
    _, status = os.waitpid(child, 0)
    answers = []
    for read, write in pipes:
        os.close(write)
        with os.fdopen(read) as opened:
            answers.append(opened.read())
    return [os.waitstatus_to_exitcode(status), *answers[:2], int(answers[2] or 0)]


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), file=answers, flush=True)
