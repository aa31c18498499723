"""Ask each node of a fleet how it is, all at once, and say what that means."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import httpx2
import msgspec

from cortex import __version__
from cortex.cli.doctor.findings import Finding, warning, well, wrong
from cortex.wire.node_api import Discovery, Health, Version
from cortex.wire.node_auth import authorization

ANSWER_SECONDS = 5.0
CLOCK_SECONDS = 5.0
STALE_SECONDS = 30.0
DISK_BYTES = 10 << 30

T = TypeVar("T")


@dataclass(slots=True)
class Answers:
    """What a node said; `refused` is the status it refused with, `silent` why it cannot be reached."""

    version: Version | None = None
    discovery: Discovery | None = None
    health: Health | None = None
    refused: int = 0
    silent: str = ""
    clock_ahead_seconds: float = 0.0
    odd: list[str] = field(default_factory=list)


def check_nodes(nodes: Mapping[str, str], token: str | None) -> list[Finding]:
    """Return how the *nodes*, endpoints by name, stand, in order of their names."""
    if not nodes:
        return [warning("nodes", "there is none", "add [[neurons]] to cortex.toml, or `cortex node add NAME URL`")]
    names = sorted(nodes)
    with ThreadPoolExecutor(max_workers=min(16, len(names))) as pool:
        answers = pool.map(lambda name: ask_node(nodes[name], token), names)
        return [finding for name, answer in zip(names, answers, strict=True) for finding in judge(name, answer)]


def ask_node(endpoint: str, token: str | None) -> Answers:
    """Return what the node at *endpoint* says when it is shown *token*."""
    headers = {"authorization": authorization(token).decode()} if token else {}
    answers = Answers()
    with httpx2.Client(base_url=endpoint, headers=headers, timeout=ANSWER_SECONDS, trust_env=False) as client:
        began = time.time()
        answers.version = _get(client, "/version", Version, answers)
        ended = time.time()
        if answers.version is not None and answers.version.unix_seconds:
            answers.clock_ahead_seconds = answers.version.unix_seconds - (began + ended) / 2
        if not answers.silent and not answers.refused:
            answers.discovery = _get(client, "/discovery", Discovery, answers)
            answers.health = _get(client, "/health", Health, answers)
    return answers


def _get(client: httpx2.Client, path: str, shape: type[T], answers: Answers) -> T | None:
    try:
        answer = client.get(path)
        if answer.status_code != 200:
            answers.refused = answer.status_code
            return None
        return msgspec.json.decode(answer.content, type=shape)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        answers.silent = str(error) or type(error).__name__
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        answers.odd.append(f"{path}: {error}")
    return None


def judge(name: str, answers: Answers) -> Iterator[Finding]:
    """Yield what *answers* of the node *name* come to. Pure."""
    subject = f"node {name}"
    if answers.silent:
        yield wrong(
            subject, f"does not answer: {answers.silent}", "start `neuron serve` there, and see that the port is open"
        )
    elif answers.refused in (401, 403):
        remedy = "give both sides one token: keys.node_token_file in cortex.toml, token_file in neuron.toml"
        yield wrong(subject, f"does not take this gateway's token (HTTP {answers.refused})", remedy)
    elif answers.refused:
        yield wrong(subject, f"answers HTTP {answers.refused}", "see that a neuron is there, and no other program")
    elif answers.odd or answers.version is None:
        said = "; ".join(answers.odd) or "says nothing of its version"
        yield wrong(subject, f"does not answer as a neuron does: {said}", "see which program listens there")
    else:
        yield from _version(subject, answers.version, answers.clock_ahead_seconds)
        if answers.discovery is not None:
            yield from _devices(subject, answers.discovery)
        if answers.health is not None:
            yield from _state(subject, answers.health)


def _version(subject: str, version: Version, ahead: float) -> Iterator[Finding]:
    if version.package_version != __version__:
        said = f"runs {version.package_version}, and this is {__version__}"
        yield warning(subject, said, "drain it, upgrade it, start it again")
    if abs(ahead) > CLOCK_SECONDS:
        side = "ahead" if ahead > 0 else "behind"
        yield warning(subject, f"its clock is {abs(ahead):.0f} s {side}", "let both machines keep time with NTP")
    if version.cache_free_bytes is not None and version.cache_free_bytes < DISK_BYTES:
        said = f"has {version.cache_free_bytes / 2**30:.1f} GiB left for model files"
        yield warning(subject, said, "make room there, or name another directory with models.cache")


def _devices(subject: str, discovery: Discovery) -> Iterator[Finding]:
    if not discovery.engines:
        yield wrong(subject, "has no engine", "install one there: pip install 'cortex-fleet[llamacpp]'")
    for said in discovery.warnings:
        yield warning(subject, said, "the node's log says more")
    if not discovery.devices:
        yield wrong(subject, "has no device", "the node's log says why")
    else:
        devices = ", ".join(
            f"{device.name} ({device.memory_total_bytes / 2**30:.0f} GiB)" for device in discovery.devices
        )
        yield well(subject, f"{devices}; {', '.join(discovery.engines)}")


def _state(subject: str, health: Health) -> Iterator[Finding]:
    if health.readings_age_seconds > STALE_SECONDS:
        said = f"has not read its devices for {health.readings_age_seconds:.0f} s"
        yield warning(subject, said, "a driver hangs: see the node's log, and restart it if need be")
    for replica in health.models:
        if replica.error:
            yield wrong(subject, f"{replica.id} failed: {replica.error}", "the node's log has its last words")
    for failed in health.activation.failed:
        yield wrong(
            subject, f"could not load {failed.model_id} at its start: {failed.error}", "see default_models there"
        )
