"""The fast interpreter is on in every test here; where Triton compiles, there is nothing to test."""

import pytest

import pytriton_llama  # noqa: F401  decides for the interpreter before triton is imported
from pytriton_llama import interpreter, runtime


@pytest.fixture(autouse=True)
def fast():
    if not runtime.interpreted():
        pytest.skip("Triton compiles for a GPU in this process")
    before = interpreter.enabled()
    assert interpreter.enable()
    yield
    if before:
        interpreter.enable()
    else:
        interpreter.disable()
