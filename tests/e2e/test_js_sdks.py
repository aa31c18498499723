"""Official SDKs for JavaScript, driven by node: `js/*.test.mjs`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import Daemon, Fleet
from js_packages import SOURCES, needs_node, node_modules
from sdks import MODELS

pytestmark = needs_node


@pytest.fixture(scope="module")
def packages() -> Path:
    return node_modules()


@pytest.fixture(scope="module")
def gateway(fleet: Fleet) -> Daemon:
    return fleet.gateway(MODELS, {"a": fleet.neuron("a").port})


@pytest.mark.parametrize("suite", sorted(path.name for path in SOURCES.glob("*.test.mjs")))
def test_a_javascript_sdk_is_served(gateway: Daemon, packages: Path, tmp_path: Path, suite: str) -> None:
    shutil.copy(SOURCES / suite, tmp_path)
    (tmp_path / "node_modules").symlink_to(packages)
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", suite],
        cwd=tmp_path,
        env={**os.environ, "GATEWAY": gateway.url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert "\n# pass 0" not in done.stdout
    assert gateway.events("request_crashed") == []
