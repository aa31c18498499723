"""Put what the dashboard takes from others into the package: by name and version, each file with its hash and licence.

npm fetches what `package-lock.json` names and checks it. Browsers know no package names without a map that our own
content policy forbids, so imports are rewritten to the files beside; nothing else is changed. What was vendored is in
`vendor.json`, which a test compares with the files.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
STATIC = HERE.parent / "src/cortex/gateway/web/static/vendor"
TESTS = HERE.parent / "tests/ui/vendor"
RECORD = HERE / "vendor.json"

FILES = {
    "preact/dist/preact.mjs": STATIC / "preact.js",
    "preact/hooks/dist/hooks.mjs": STATIC / "preact-hooks.js",
    "preact/LICENSE": STATIC / "preact.LICENSE",
    "htm/dist/htm.mjs": STATIC / "htm.js",
    "htm/LICENSE": STATIC / "htm.LICENSE",
    "@preact/signals-core/dist/signals-core.mjs": STATIC / "signals-core.js",
    "@preact/signals/dist/signals.mjs": STATIC / "signals.js",
    "@preact/signals/LICENSE": STATIC / "signals.LICENSE",
    "uplot/dist/uPlot.esm.js": STATIC / "uplot.js",
    "uplot/dist/uPlot.min.css": STATIC / "uplot.css",
    "uplot/LICENSE": STATIC / "uplot.LICENSE",
    "@fontsource-variable/source-serif-4/files/source-serif-4-latin-wght-normal.woff2": STATIC / "source-serif.woff2",
    "@fontsource-variable/source-serif-4/LICENSE": STATIC / "source-serif.LICENSE",
    "@fontsource-variable/ibm-plex-sans/files/ibm-plex-sans-latin-wght-normal.woff2": STATIC / "plex-sans.woff2",
    "@fontsource-variable/ibm-plex-sans/LICENSE": STATIC / "plex-sans.LICENSE",
    "axe-core/axe.min.js": TESTS / "axe.js",
    "axe-core/LICENSE": TESTS / "axe.LICENSE",
}
IMPORTS = {
    "preact": "./preact.js",
    "preact/hooks": "./preact-hooks.js",
    "@preact/signals-core": "./signals-core.js",
}
_IMPORT = re.compile(rf'(\bfrom\s*)"({"|".join(map(re.escape, IMPORTS))})"')
_SOURCE_MAP = re.compile(r"\n?//# sourceMappingURL=\S+\s*\Z")


def main() -> None:
    """Fetch, rewrite, write and record."""
    with TemporaryDirectory() as directory:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, directory)
        command = ["npm", "ci", "--ignore-scripts", "--omit=peer", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=directory, check=True)
        modules = Path(directory) / "node_modules"
        for target in (STATIC, TESTS):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
        record = [_vendor(modules, source, target) for source, target in FILES.items()]
    RECORD.write_text(json.dumps(record, indent=2) + "\n")
    print(f"{len(record)} files are in place; {RECORD.name} has their hashes")


def _vendor(modules: Path, source: str, target: Path) -> dict[str, str]:
    content = (modules / source).read_bytes()
    if target.suffix == ".js":
        content = rewritten(content.decode()).encode()
    target.write_bytes(content)
    package = "/".join(source.split("/")[: 2 if source.startswith("@") else 1])
    manifest = json.loads((modules / package / "package.json").read_text())
    return {
        "file": target.relative_to(HERE.parent).as_posix(),
        "package": package,
        "version": manifest["version"],
        "licence": manifest["license"],
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def rewritten(text: str) -> str:
    """Return the module *text* with names of packages in its imports replaced by files, and without its source map."""
    return _SOURCE_MAP.sub("\n", _IMPORT.sub(lambda found: f'{found[1]}"{IMPORTS[found[2]]}"', text))


if __name__ == "__main__":
    main()
