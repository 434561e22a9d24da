"""Where the process compiles, a traced launch runs in a worker: also kernels of a notebook cell.

Each test is a script of its own process, without the interpreter. There is no GPU here: a launch that reached the
compiler would fail.
"""

import os
import subprocess
import sys
import textwrap

# A cell: its source is nowhere but in linecache, under a name of its own.
PROLOGUE = """
import linecache, traceback
import torch, triton, triton.language as tl
from pytriton_llama.interpreter import trace
from pytriton_llama.interpreter.tracing import OutOfBounds, Race, Uninitialized, AssertionFailed

def cell(number, source):
    name = f"/nowhere/ipykernel_1/{number}.py"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    exec(compile(source, name, "exec"), globals())

cell(1, '''
SCALE = tl.constexpr(2.0)
OFFSET: tl.constexpr = 1

@triton.jit
def twice(v):
    return v * SCALE
''')
cell(2, '''
# a comment before the kernel
@triton.jit
def kernel(x_ptr, y_ptr, N,
           B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    v = tl.load(x_ptr + i, mask=i < N)
    tl.store(y_ptr + i, twice(v) + tl.sum(v * 0, 0), mask=i < N)

@triton.jit
def beyond(x_ptr, y_ptr, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y_ptr + i, tl.load(x_ptr + i))
''')
"""


def run(code, third_cell=""):
    env = {k: v for k, v in os.environ.items() if k != "PYTRITON_LLAMA_FAST_INTERPRETER"} | {"TRITON_INTERPRET": "0"}
    code = f"{PROLOGUE}\ncell(3, {third_cell!r})\n" + textwrap.dedent(code)
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()


def test_launches_of_a_cells_kernel():
    """Catches helpers and constants of other cells that are left behind, and stores that stay in the worker."""
    out = run("""
        x, y = torch.arange(70.0), torch.zeros(80)[5:75]
        with trace() as t:
            kernel[lambda meta: (triton.cdiv(meta["N"], meta["B"]),)](x, y, 70, B=32, num_warps=4)
            kernel[(1,)](x, y, 32, B=32)
        print(torch.equal(y, x * 2), y._base[:5].sum().item(), triton.knobs.runtime.interpret)
        print(t.summary())
        print([(l.kernel, l.grid, dict(l.loaded)) for l in t.launches])
        print(t.launches[0].touched("x_ptr", program=(2, 0, 0)).tolist())
    """)
    assert out == [
        "True 0.0 False",
        "2 launches, 408 bytes loaded, 408 bytes stored",
        "[('kernel', (3, 1, 1), {'x_ptr': 280}), ('kernel', (1, 1, 1), {'x_ptr': 128})]",
        "[64, 65, 66, 67, 68, 69]",
    ]


def test_errors_name_the_cells_line():
    """Catches an error that arrives as text without its type, or with the line of a rewritten source."""
    out = run("""
        try:
            with trace():
                beyond[(1,)](torch.zeros(20), torch.zeros(32), B=32)
        except OutOfBounds as error:
            print(error)
        try:
            with trace():
                beyond[(2,)](torch.zeros(32), torch.zeros(32), B=32)
        except Race as error:
            print(error)
        try:
            with trace():
                kernel[(1,)](torch.zeros(32), torch.zeros(32), 32, B=32, num_warp=4)
        except KeyError as error:
            print(error)
    """)
    assert "2.py:13 in beyond, program (0, 0, 0): load of 12 of 32 elements outside argument 'x_ptr'" in out[0]
    assert "2.py:13 in beyond, program (1, 0, 0): stores to 32 elements of argument 'y_ptr'" in out[1]
    assert "num_warp was specified but unrecognised" in out[2]


MIXED = """
@triton.jit
def negated(v):
    return -v

@triton.jit
def mixed(xs, desc, bias, FN: tl.constexpr, DT: tl.constexpr, half, B: tl.constexpr = 16):
    i = tl.arange(0, B)
    v = FN(tl.load(xs[0] + i)).to(DT) * half
    tl.store(xs[1] + i, v)
    if bias is None:
        desc.store([0, 0], desc.load([0, 0]) + 1)
"""


def test_arguments_of_every_kind():
    """Catches two views of one storage that come back as two, and functions, tuples and types as arguments."""
    out = run(
        """
        from triton.tools.tensor_descriptor import TensorDescriptor
        both = torch.arange(32.0)
        d = torch.zeros(16, 16)
        with trace() as t:
            desc = TensorDescriptor.from_tensor(d, [16, 16])
            mixed[(1,)]((both[:16], both[16:]), desc, None, negated, tl.float32, 0.5)
        print(torch.equal(both[16:], -both[:16] / 2), d.sum().item())
        print(dict(t.launches[0].stored))
    """,
        MIXED,
    )
    assert out == ["True 256.0", "{'xs[1]': 64, 'desc': 1024}"]


def test_uninitialised_memory_across_launches():
    """Catches poison that the worker does not know of, or forgets from one launch to the next."""
    out = run("""
        with trace() as t:
            x = torch.empty(32)
            try:
                beyond[(1,)](x, torch.empty(32), B=32)
            except Uninitialized as error:
                print(error)
            kernel[(1,)](torch.ones(32), x, 32, B=32)
            beyond[(1,)](x, torch.empty(32), B=32)
            z = torch.empty(32).zero_()
            beyond[(1,)](z, torch.empty(32), B=32)
        print(len(t.launches))
    """)
    assert "2.py:13 in beyond" in out[0] and out[1] == "4"


DIES = """
import os
@triton.jit
def dies(x):
    os._exit(7)
"""


def test_after_the_block_launches_are_compiled_again():
    """Catches a class left patched; and a worker that died is reported, then replaced."""
    out = run(
        """
        from triton.runtime.jit import JITFunction
        from pytriton_llama.interpreter import worker
        before = JITFunction.run
        with trace():
            kernel[(1,)](torch.ones(32), torch.zeros(32), 32, B=32)
        print(JITFunction.run is before)
        worker._process.kill()
        worker._process.wait()
        with trace() as t:
            kernel[(1,)](torch.ones(32), torch.zeros(32), 32, B=32)
        print(len(t.launches))
        try:
            with trace():
                dies[(1,)](torch.zeros(1))
        except worker.WorkerError as error:
            print(error)
        with trace() as t:
            kernel[(1,)](torch.ones(32), torch.zeros(32), 32, B=32)
        print(len(t.launches))
    """,
        DIES,
    )
    assert out == ["True", "1", "the interpreter's worker process ended with code 7", "1"]
