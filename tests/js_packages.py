"""The official SDKs for JavaScript, installed once for each lock, outside the tree, by name, version and hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

SOURCES = Path(__file__).parent / "e2e" / "js"
MANIFESTS = ("package.json", "package-lock.json")
NPM_CI = ("npm", "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund")

needs_node = pytest.mark.skipif(
    shutil.which("npm") is None or shutil.which("node") is None, reason="node and npm are not installed"
)


def node_modules() -> Path:
    """Return the directory with the packages of the lock."""
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
