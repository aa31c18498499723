"""The dashboard's files: complete, as they were vendored, from nowhere else, and kept from other sites."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from cortex.gateway.web.files import ROOT, files
from fake_fleet import FakeFleet

REPOSITORY = Path(__file__).parents[3]
RECORD = json.loads((REPOSITORY / "web/vendor.json").read_text())
OWN = sorted(name for name in files() if not name.startswith("vendor/"))


@pytest.mark.parametrize("vendored", RECORD, ids=lambda each: each["file"])
def test_what_was_vendored_is_as_it_was_recorded(vendored: dict[str, str]) -> None:
    content = (REPOSITORY / vendored["file"]).read_bytes()

    assert hashlib.sha256(content).hexdigest() == vendored["sha256"]


def test_nothing_is_vendored_without_a_record_or_in_another_version_than_the_locked_one() -> None:
    locked = json.loads((REPOSITORY / "web/package-lock.json").read_text())["packages"]
    there = {path.relative_to(REPOSITORY).as_posix() for path in (ROOT / "vendor").iterdir()}

    assert there == {each["file"] for each in RECORD if each["file"].startswith("src/")}
    assert all(locked[f"node_modules/{each['package']}"]["version"] == each["version"] for each in RECORD)
    assert {each["package"] for each in RECORD if each["file"].endswith("LICENSE")} >= {"preact", "htm", "uplot"}


# The imports of the snippets are text, for others to run.
@pytest.mark.parametrize("name", [name for name in files() if name.endswith(".js") and name != "snippets.js"])
def test_a_module_imports_nothing_but_files_beside_it(name: str) -> None:
    text = files()[name].content.decode()
    for imported in re.findall(r'^\s*(?:import|export)\b[^;]*?from\s*"([^"]+)"', text, re.MULTILINE):
        assert imported.startswith("./"), imported
        assert ((ROOT / name).parent / imported).is_file(), imported


@pytest.mark.parametrize("name", OWN)
def test_no_file_of_ours_names_another_host_or_has_a_style_or_script_inline(name: str) -> None:
    if name.endswith(".svg"):
        return
    text = files()[name].content.decode()

    assert not re.search(r"https?://(?!www\.w3\.org)[a-z]", text.replace("http://localhost", ""))
    assert not re.search(r"<style|<script>|\bon[a-z]+=\"|\bstyle=\"|innerHTML|localStorage|sessionStorage", text)


@pytest.mark.anyio
async def test_the_page_is_for_everybody_and_runs_nothing_but_its_own_files(fleet: FakeFleet) -> None:
    gateway = await fleet.gateway()
    for path in ("/ui", "/ui/", "/ui/static/app.js"):
        answer = await gateway.get(path)
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.anyio
async def test_a_file_that_the_browser_has_is_not_sent_again(fleet: FakeFleet) -> None:
    gateway = await fleet.gateway()
    first = await gateway.get("/ui/static/base.css")
    again = await gateway.get("/ui/static/base.css", **{"if-none-match": first.headers["etag"]})

    assert (first.status_code, first.headers["cache-control"]) == (200, "no-cache")
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["nothing.js", "../files.py", "..%2f..%2ffiles.py", "vendor", ""])
async def test_what_is_no_file_of_the_page_is_not_found(fleet: FakeFleet, path: str) -> None:
    assert (await (await fleet.gateway()).get(f"/ui/static/{path}")).status_code == 404
