"""Official SDKs for JavaScript, driven by node: `js/*.test.mjs`.

The packages are installed once for each lock, outside the tree, by name, version and hash.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from harness import Daemon, Fleet
from sdks import MODELS

SOURCES = Path(__file__).parent / "js"
MANIFESTS = ("package.json", "package-lock.json")
NPM_CI = ("npm", "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund")

pytestmark = pytest.mark.skipif(
    shutil.which("npm") is None or shutil.which("node") is None, reason="node and npm are not installed"
)


@pytest.fixture(scope="module")
def packages() -> Path:
    """The directory with the packages of the lock."""
    digest = hashlib.sha256(b"".join((SOURCES / name).read_bytes() for name in MANIFESTS)).hexdigest()[:16]
    cache = Path(os.environ.get("CORTEX_CACHE", "~/.cache/cortex")).expanduser()
    target = cache / "js" / digest
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, ignore_cleanup_errors=True) as fresh:
            for name in MANIFESTS:
                shutil.copy(SOURCES / name, fresh)
            done = subprocess.run(NPM_CI, cwd=fresh, capture_output=True, text=True, timeout=180, check=False)
            assert done.returncode == 0, done.stderr
            Path(fresh).rename(target)
    return target / "node_modules"


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
