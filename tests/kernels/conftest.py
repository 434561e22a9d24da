"""What all kernel tests share: a device, the dtypes it has, and memory that starts as NaN."""

from contextlib import nullcontext

import pytest
import torch

from pytriton_llama.interpreter import trace
from pytriton_llama.runtime import interpreted, runs_bfloat16


def pytest_addoption(parser):
    parser.addoption(
        "--watched", action="store_true", help="watch every launch: bounds, races, overflow, unwritten memory"
    )


@pytest.fixture(scope="session")
def device() -> str:
    return "cpu" if interpreted() else "cuda"


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
def dtype(request) -> torch.dtype:
    if request.param == torch.bfloat16 and not runs_bfloat16(torch.device("cpu" if interpreted() else "cuda")):
        pytest.skip("no bfloat16 here")
    return request.param


@pytest.fixture(autouse=True)
def poisoned_memory():
    """``torch.empty`` gives NaN: an element that no program writes is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def watched(request, poisoned_memory):
    """With ``--watched``, what a result may not show raises at the line of the kernel that does it."""
    with trace(extent="view") if request.config.getoption("watched", False) else nullcontext():
        yield


@pytest.fixture
def randn(device):
    """Normal numbers from the CPU's generator, so that every machine sees the same."""
    generator = torch.Generator().manual_seed(1337)

    def make(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(device, dtype)

    return make
