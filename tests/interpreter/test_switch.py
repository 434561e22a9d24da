"""On, off, and gone without a trace."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter as stock

from pytriton_llama import interpreter


def attributes():
    owners = [
        stock,
        stock.InterpreterBuilder,
        stock.interpreter_builder,
        stock.interpreter_semantic,
        stock.TensorHandle,
    ]
    owners += [
        stock.InterpretedFunction,
        stock.GridExecutor,
        tl,
        tl.core,
        tl.math,
        tl.tensor,
        tl.core.block_type,
        tl.dtype,
    ]
    owners += [tl.core.tensor_descriptor_base]
    return {(id(owner), name): value for owner in owners for name, value in vars(owner).items()}


def test_disable_restores_everything():
    """Catches an attribute that stays replaced, by comparing all of them before and after."""
    interpreter.disable()
    before = attributes()
    assert interpreter.enable() and interpreter.enable()
    assert attributes() != before
    interpreter.disable()
    interpreter.disable()
    after = attributes()
    assert after.keys() == before.keys()
    assert [key for key in before if before[key] is not after[key] and before[key] != after[key]] == []


def run(code, **environment):
    env = {k: v for k, v in os.environ.items() if k not in (interpreter.SWITCH, "TRITON_INTERPRET")} | environment
    result = subprocess.run([sys.executable, "-W", "always", "-c", code], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


ENABLE = "from pytriton_llama import interpreter; print(interpreter.enable(), interpreter.enabled())"


def test_switched_off_by_the_environment():
    """Catches a switch that is read too late."""
    off = run(ENABLE, TRITON_INTERPRET="1", **{interpreter.SWITCH: "0"})
    assert off.stdout.split() == ["False", "False"] and not off.stderr


def test_stands_aside_where_triton_compiles():
    """Catches patches in a process whose kernels are compiled."""
    assert run(ENABLE, TRITON_INTERPRET="0").stdout.split() == ["False", "False"]


def test_stands_aside_on_an_unknown_version():
    """Catches patches of code that nobody has looked at; the stock interpreter runs, and one line says so."""
    code = "import triton; triton.__version__ = '9.9.9'; from pytriton_llama import interpreter"
    result = run(code + "; print(interpreter.enabled())", TRITON_INTERPRET="1")
    assert result.stdout.split() == ["False"]
    (line,) = [line for line in result.stderr.splitlines() if "fast interpreter: off" in line]
    assert "9.9.9" in line and all(version in line for version in interpreter.SUPPORTED)


def test_importing_the_package_costs_nothing():
    """Catches triton or torch imported before anyone needs them."""
    code = "import sys, pytriton_llama.interpreter; print('triton' in sys.modules, 'torch' in sys.modules)"
    assert run(code, TRITON_INTERPRET="1").stdout.split() == ["False", "False"]


def test_plans_are_bounded(monkeypatch):
    """Catches memory that grows with each value a Python integer of a kernel takes."""
    import torch

    from pytriton_llama.interpreter import plans

    @triton.jit
    def counted(x, N: tl.constexpr):
        for k in range(N):
            tl.store(x + k, k)

    monkeypatch.setattr(plans, "_LIMIT", 50)
    x = torch.zeros(200)
    counted[(1,)](x, 200)
    assert np.array_equal(x, range(200)) and len(plans._plans) <= 50


@pytest.mark.parametrize("debug", [False, True])
def test_options_set_by_the_user_hold(debug):
    """Catches plans that outlive the options they were made under: Triton's own overflow check, and its asserts."""
    import dataclasses

    import torch

    @triton.jit
    def doubled(x, n):
        tl.store(x, n * 2)

    x = torch.zeros(1, dtype=torch.int32)
    builder = stock.interpreter_builder
    options = builder.options
    doubled[(1,)](x, 2**30)
    try:
        builder.options = dataclasses.replace(options, debug=debug, sanitize_overflow=True)
        if debug:
            with pytest.raises(stock.InterpreterError, match="int32 overflow detected"):
                doubled[(1,)](x, 2**30)
        else:
            doubled[(1,)](x, 2**30)
    finally:
        builder.options = options
    doubled[(1,)](x, 2**30)
    assert x.item() == -(2**31)


others: list[threading.Thread] = []


def meanwhile():
    """Let another thread launch, once, and give it time to."""
    while others:
        other = others.pop()
        other.start()
        other.join(0.3)


@triton.jit
def numbers(y, first: tl.constexpr):
    meanwhile()
    tl.store(y + tl.program_id(0), first + tl.program_id(0))


def test_threads_take_turns():
    """Catches a launch amid another thread's: the builder then tells the first one the second one's program."""
    mine, its = torch.zeros(8), torch.zeros(8)
    other = threading.Thread(target=lambda: numbers[(5,)](its, 10))
    others.append(other)
    numbers[(3,)](mine, 1)
    other.join()
    assert mine.tolist() == [1, 2, 3, 0, 0, 0, 0, 0]
    assert its.tolist() == [10, 11, 12, 13, 14, 0, 0, 0]


def test_kernels_without_a_module():
    """Catches a kernel from exec whose functions know no module's name."""
    space = {"triton": triton, "tl": tl}
    exec(
        "@triton.jit\ndef inner(v):\n    return v + 1\n"
        "@triton.jit\ndef outer(x):\n    tl.store(x, inner(tl.load(x)))\n",
        space,
    )
    x = torch.zeros(1)
    space["outer"][(1,)](x)
    assert x.item() == 1
