"""What every test shares. The package comes first: it decides how Triton runs in this process."""

import pytriton_llama  # noqa: F401, I001
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the default model, fetched on first use into the user's own cache."""
    from pytriton_llama.llama import fetch

    return fetch.fetch(fetch.DEFAULT)


def pytest_collection_modifyitems(items):
    from pytriton_llama.runtime import interpreted

    if interpreted():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
