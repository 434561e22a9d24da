"""A JupyterLab over a copy of the notebooks, and pages of a headless Chromium that look at it."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright

ROOT = Path(__file__).parents[2]
SETTINGS = {
    # Light or dark as the browser asks; every cell is in the page, not only what fits the window; no news from outside.
    "@jupyterlab/apputils-extension:themes": {"adaptive-theme": True},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of its own folders, with ``{}`` for a notebook's path below notebooks/."""
    home = tmp_path_factory.mktemp("lab")
    served = home / "served"  # laid out as `make lab` serves it
    for folder in ("notebooks", "pytriton_llama"):
        shutil.copytree(ROOT / folder, served / folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    shutil.copy(ROOT / "README.md", served)
    overrides = home / "config" / "labconfig" / "default_setting_overrides.json"
    overrides.parent.mkdir(parents=True)
    overrides.write_text(json.dumps(SETTINGS))
    variables = ("JUPYTER_CONFIG_DIR", "config"), ("JUPYTER_DATA_DIR", "data"), ("JUPYTER_RUNTIME_DIR", "runtime")
    folders = {name: str(home / folder) for name, folder in (*variables, ("IPYTHONDIR", "ipython"))}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0", served],
        env=os.environ | folders,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = ""
    while not (address := re.search(r"(http://127\.0\.0\.1:\d+)/lab(\?token=\w+)", log)):
        line = server.stderr.readline()
        assert line, f"JupyterLab did not start:\n{log}"
        log += line
    # Its further log is of no use, but a full pipe would stop it.
    threading.Thread(target=server.stderr.read, daemon=True).start()
    yield f"{address[1]}/doc/tree/notebooks/{{}}{address[2]}"
    server.terminate()  # its kernels end with it
    server.wait(60)


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    """One window's worth: its pages share a cache."""
    chromium = shutil.which("chromium")
    assert chromium, "chromium not found: sudo apt-get install chromium"
    with sync_playwright() as playwright:
        # Chromium's sandbox refuses root, which is who runs CI.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_context(viewport={"width": 1600, "height": 1000})
        browser.close()


@pytest.fixture
def open_notebook(lab: str, browser: BrowserContext) -> Iterator[Callable[[str], Page]]:
    """A function from a notebook's path to a page that shows it; in the end its console must be free of errors."""
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def open_(path: str) -> Page:
        page.goto(lab.format(path))
        page.locator(".jp-NotebookPanel .jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
        return page

    yield open_
    page.close()
    assert not complaints
