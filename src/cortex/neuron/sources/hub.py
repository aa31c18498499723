"""Models of a Hugging Face hub, kept in the hub's own cache layout, which other tools share.

Large files are downloaded by us, since the library drops a partial file when it fails: a file grows as
`blobs/<sha256>.incomplete`, survives restarts, is verified, renamed to `blobs/<sha256>` and linked from the snapshot.
What a (repository, revision, quant) was resolved to is noted beside, so later loads need no network.

Protocol: huggingface_hub's `file_download` and its guide "Understand caching".
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from anyio import from_thread
from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from cortex.core.logging import get_logger
from cortex.core.sources import HubSource
from cortex.neuron.sources.choose import choose_files
from cortex.neuron.sources.errors import SourceError, not_cached, unreachable
from cortex.neuron.sources.files import (
    FileRecord,
    ModelFiles,
    OnProgress,
    are_intact,
    is_safe_name,
    sha256_of,
    write_json,
)
from cortex.neuron.sources.local import find_in
from cortex.neuron.sources.lock import lock_in_thread

log = get_logger(__name__)

# With it on, building a User-Agent calls the public hub, whatever the endpoint.
constants.HF_HUB_DISABLE_TELEMETRY = True

LIST_SECONDS = 30.0
# The hub serves larger files through its chunk store only, which the library speaks.
PLAIN_HTTP_MAX_BYTES = constants.MAX_HTTP_DOWNLOAD_SIZE

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Resolved(msgspec.Struct, frozen=True):
    """What a (repository, revision, quant) was resolved to; written when every file was there and verified."""

    commit: str
    load: str
    weights: tuple[str, ...]
    files: dict[str, FileRecord]
    projector: str | None = None


@dataclass(frozen=True)
class RemoteFile:
    """One file as the hub lists it; *sha256* is known of large files only."""

    size: int | None
    sha256: str | None


def choose_hub_cache(env: Mapping[str, str], cache: Path, configured: Path | None = None) -> Path:
    """Return where hub files are kept: *configured*, `$HF_HUB_CACHE`, `$HF_HOME/hub`, or `hub` in our *cache*."""
    if configured is not None:
        return configured.expanduser()
    if env.get("HF_HUB_CACHE"):
        return Path(env["HF_HUB_CACHE"]).expanduser()
    if env.get("HF_HOME"):
        return Path(env["HF_HOME"]).expanduser() / "hub"
    return cache / "hub"


def fetch_repo(
    source: HubSource,
    *,
    quant: str | None,
    cache: Path,
    hub_cache: Path | None,
    endpoint: str | None,
    offline: bool,
    on_progress: OnProgress,
) -> ModelFiles:
    """Return the model of *source*, downloaded unless it is there. Blocking: call it in a worker thread of anyio.

    A revision is resolved once; to ask for an update, name another. Raises SourceError.
    """
    quant = _one_quant(source, quant)
    name = f"models--{source.repo.replace('/', '--')}"
    storage = choose_hub_cache(os.environ, cache, hub_cache) / name
    note = cache / "resolved" / name / f"{(quant or '').upper()}@{source.revision or ''}.json"
    resolved = _read_note(note, storage)
    if resolved is None:
        try:
            if offline:
                raise OfflineModeIsEnabled("offline is set in the node's configuration")
            resolved = _download_repo(source, quant, storage, endpoint, on_progress)
        except (
            httpx2.HTTPError,
            httpx2.InvalidURL,
            EntryNotFoundError,
            OfflineModeIsEnabled,
            HFValidationError,
        ) as error:
            problem = _explain(error, source)
            if problem.should_retry or isinstance(error, OfflineModeIsEnabled):
                found = _find_snapshot(source, quant, storage)
                if found is not None:
                    return found
            raise problem from error
        write_json(note, resolved)
        log.info("repo_downloaded", repo=source.repo, commit=resolved.commit, files=len(resolved.files))
    snapshot = storage / "snapshots" / resolved.commit
    files = ModelFiles(
        path=snapshot / resolved.load,
        size_bytes=sum(resolved.files[weight].size for weight in resolved.weights),
        origin=f"hf:{source.repo}@{resolved.commit}",
    )
    return files.with_projector(snapshot / resolved.projector if resolved.projector else None)


def _one_quant(source: HubSource, quant: str | None) -> str | None:
    """Return the quant that the source or the spec asks for; they must not contradict each other."""
    if source.quant and quant and source.quant.upper() != quant.upper():
        raise SourceError(f"hf:{source.repo}: the source says {source.quant}, quant = {quant!r}; keep one of the two")
    chosen = source.quant or quant
    if chosen is not None and not _QUANT.fullmatch(chosen):
        raise SourceError(f"hf:{source.repo}: quant = {chosen[:60]!r} is not a name such as Q4_K_M")
    return chosen


def _read_note(note: Path, storage: Path) -> Resolved | None:
    """Return what *note* says if all its files are still there."""
    try:
        resolved = msgspec.json.decode(note.read_bytes(), type=Resolved)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return resolved if are_intact(storage / "snapshots" / resolved.commit, resolved.files) else None


def _find_snapshot(source: HubSource, quant: str | None, storage: Path) -> ModelFiles | None:
    """Return the model if another tool has put it into the hub's cache."""
    revision = source.revision or constants.DEFAULT_REVISION
    try:
        commit = revision if _COMMIT.fullmatch(revision) else (storage / "refs" / revision).read_text().strip()
        if not _COMMIT.fullmatch(commit):
            return None
        return find_in(storage / "snapshots" / commit, quant, origin=f"hf:{source.repo}@{commit}")
    except (OSError, SourceError) as error:
        log.debug("snapshot_unusable", repo=source.repo, revision=revision, error=str(error))
        return None


def _download_repo(
    source: HubSource, quant: str | None, storage: Path, endpoint: str | None, on_progress: OnProgress
) -> Resolved:
    """List the repository, choose the model's files and bring all of them."""
    commit, listed = _list_repo(source, endpoint)
    choice = choose_files(listed, quant, _text(source))
    sizes = [listed[name].size for name in choice.names]
    total = 0 if None in sizes else sum(size or 0 for size in sizes)
    transfer = _Transfer(source.repo, commit, storage, endpoint, _Meter(total, on_progress))
    # Small files first: weights without their tokenizer are never taken for a whole model.
    last = choice.names[len(choice.weights) :]
    files = {name: transfer.bring(name, listed[name]) for name in (*last, *choice.weights)}
    return Resolved(commit, choice.load, choice.weights, files, choice.projector)


def _list_repo(source: HubSource, endpoint: str | None) -> tuple[str, dict[str, RemoteFile]]:
    """Return the commit that the revision stands for now, and its files."""
    try:
        info = HfApi(endpoint=endpoint).model_info(
            source.repo, revision=source.revision, files_metadata=True, timeout=LIST_SECONDS
        )
        commit = info.sha or ""
        listed = {
            file.rfilename: RemoteFile(file.lfs.size, file.lfs.sha256) if file.lfs else RemoteFile(file.size, None)
            for file in info.siblings or ()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, HFValidationError | httpx2.HTTPError):
            raise
        raise SourceError(f"{_text(source)}: the hub endpoint does not answer like a hub ({error!r})") from error
    if not _COMMIT.fullmatch(commit):
        raise SourceError(f"{_text(source)}: the hub endpoint names no commit ({commit[:60]!r})")
    for name, file in listed.items():
        if not is_safe_name(name) or not _SHA256.fullmatch(file.sha256 or "0" * 64):
            raise SourceError(
                f"{_text(source)}: refused, the hub lists a file {name[:100]!r} that is not safe to store"
            )
    return commit, listed


class _Meter:
    """Bytes of a whole repository, told to *on_progress*; hearing of bytes is also where a cancel is noticed."""

    def __init__(self, total: int, on_progress: OnProgress) -> None:
        self.total = total
        self.done = 0
        self.on_progress = on_progress

    def set(self, done: int) -> None:
        from_thread.check_cancelled()
        self.done = done
        self.on_progress("download", done, self.total)

    def add(self, count: int) -> None:
        self.set(self.done + count)


class _Transfer:
    """Brings files of one commit into the hub's cache, each verified before it has its name."""

    def __init__(self, repo: str, commit: str, storage: Path, endpoint: str | None, meter: _Meter) -> None:
        self._repo, self._commit, self._storage = repo, commit, storage
        self._endpoint = endpoint
        self._meter = meter
        self._bar: Any = _bar_class(meter.add)

    def bring(self, name: str, file: RemoteFile) -> FileRecord:
        """Make *name* exist in the snapshot and return it as verified."""
        before = self._meter.done
        pointer = self._storage / "snapshots" / self._commit / name
        if file.sha256 is not None and file.size is not None and file.size <= PLAIN_HTTP_MAX_BYTES:
            self._bring_blob(name, file.sha256, file.size, pointer)
        else:
            self._bring_by_library(name, file, pointer)
        size = pointer.stat().st_size
        self._meter.set(before + size)
        return FileRecord(size, file.sha256)

    def _bring_by_library(self, name: str, file: RemoteFile, pointer: Path) -> None:
        hf_hub_download(
            self._repo,
            name,
            revision=self._commit,
            cache_dir=self._storage.parent,
            endpoint=self._endpoint,
            tqdm_class=self._bar,
        )
        if file.size is not None and pointer.stat().st_size != file.size:
            self._refuse(name, pointer, f"{pointer.stat().st_size} bytes", f"{file.size}")
        if file.sha256 is not None and (sha256 := self._hash(pointer)) != file.sha256:
            self._refuse(name, pointer, f"sha256 {sha256}", file.sha256)

    def _bring_blob(self, name: str, sha256: str, size: int, pointer: Path) -> None:
        blob = self._storage / "blobs" / sha256
        # The library's own lock of this file: it, we and other neurons wait for each other.
        with lock_in_thread(self._storage.parent / ".locks" / self._storage.name / f"{sha256}.lock"):
            blob.parent.mkdir(parents=True, exist_ok=True)
            if not (blob.exists() and self._hash(blob) == sha256):
                part = blob.with_name(f"{sha256}.incomplete")
                self._download(name, size, part)
                if (found := self._hash(part)) != sha256:
                    self._refuse(name, part, f"sha256 {found}", sha256)
                part.replace(blob)
            pointer.parent.mkdir(parents=True, exist_ok=True)
            pointer.unlink(missing_ok=True)
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))

    def _download(self, name: str, size: int, part: Path) -> None:
        """Let *part* grow to *size* bytes, from where an earlier try ended, for as long as every try gets on."""
        url = hf_hub_url(self._repo, name, revision=self._commit, endpoint=self._endpoint)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        before = self._meter.done
        while True:
            have = _usable_bytes(part, size)
            _check_room(part, size - have)
            self._meter.set(before + have)
            try:
                with part.open("ab") as file:
                    http_get(
                        url,
                        file,
                        resume_size=have,
                        headers=headers,
                        expected_size=size,
                        displayed_filename=name,
                        tqdm_class=self._bar,
                    )
            except httpx2.TransportError as error:
                if part.stat().st_size <= have:
                    raise
                log.warning("download_resumed", repo=self._repo, file=name, bytes=part.stat().st_size, error=str(error))
            else:
                return

    def _hash(self, path: Path) -> str:
        total, done = path.stat().st_size, 0

        def on_bytes(count: int) -> None:
            nonlocal done
            done += count
            self._meter.on_progress("verify", done, total)

        return sha256_of(path, on_bytes)

    def _refuse(self, name: str, path: Path, found: str, expected: str) -> None:
        """Delete *path* and what it links to, and raise SourceError."""
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise SourceError(
            f"hf:{self._repo}: {name} has {found}, the hub lists {expected}; it was deleted. It was changed on the "
            "way, or the hub is a faulty mirror: try again, or check the hub endpoint"
        )


def _usable_bytes(part: Path, size: int) -> int:
    """Return how much of *size* bytes *part* holds; a longer one is of no use and is deleted."""
    have = part.stat().st_size if part.exists() else 0
    if have > size:
        part.unlink()
        return 0
    return have


def _check_room(path: Path, needed_bytes: int) -> None:
    """Raise OSError if the disk has no room for *needed_bytes* more."""
    free_bytes = shutil.disk_usage(path.parent).free
    if needed_bytes > free_bytes:
        raise OSError(f"{needed_bytes} more bytes are needed in {path.parent} and {free_bytes} are free")


def _bar_class(on_bytes: Callable[[int], None]) -> type:
    """Return a class that the library takes for its progress bar and that only tells *on_bytes*."""

    class Bar:
        def __init__(self, **_: object) -> None:
            pass

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: float | None = 1) -> None:
            on_bytes(int(count or 0))

        def update_transfer(self, count: float | None = 1) -> None:
            """Bytes on the wire are the library's second bar; `update` counts those of the file."""

        def set_postfix_str(self, text: str = "", refresh: bool = True) -> None:
            pass

        set_transfer_postfix_str = set_postfix_str

    return Bar


def _explain(error: Exception, source: HubSource) -> SourceError:
    """Return what *error* means for the operator, and what to do about it."""
    what = _text(source)
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, OfflineModeIsEnabled):
        return not_cached(what)
    if isinstance(error, RevisionNotFoundError):
        return SourceError(f"{what}: the repository has no revision {source.revision!r}")
    if isinstance(error, EntryNotFoundError):
        return SourceError(f"{what}: the hub lists a file that it does not have: {_one_line(error)}")
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError) or (status in (401, 403) and not isinstance(error, RepositoryNotFoundError)):
        return SourceError(
            f"{what}: the hub does not let this node read it. Accept the model's terms on its page if it is gated, and "
            "set HF_TOKEN in the neuron's environment to a token of that account"
        )
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return SourceError(
            f"{what}: the hub has no repository {source.repo!r}, or it is private. Check the name, or set HF_TOKEN in "
            "the neuron's environment to a token that may read it"
        )
    if isinstance(error, HFValidationError):
        return SourceError(f"{what}: {error}")
    if status is not None and status != 429 and status < 500:
        return SourceError(f"{what}: the hub answered {status}: {_one_line(error)}")
    return unreachable(what, _one_line(error))


def _one_line(error: Exception) -> str:
    """Return the first line of *error*, which says most, or its name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _text(source: HubSource) -> str:
    return f"hf:{source.repo}" + (f"@{source.revision}" if source.revision else "")
