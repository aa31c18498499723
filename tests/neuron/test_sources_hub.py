from __future__ import annotations

import hashlib
import threading
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from cortex.core.errors import ConfigError
from cortex.neuron.sources import ModelFiles, SourceError, fetch
from cortex.neuron.sources.hub import choose_hub_cache

Q4 = b"GGUF4" + bytes(9000)
Q8 = b"GGUF8" + bytes(12000)
# The fixture `hub` of conftest.py: a real server in this process.
Hub = Any


def gguf_repo(hub: Hub) -> None:
    hub.files = {"README.md": b"hi", "config.json": b"{}", "m-Q4_0.gguf": Q4, "m-Q8_0.gguf": Q8}


def fetch_now(hub: Hub, cache: Path, source: str = "hf:org/model:Q4_0", **options: Any) -> ModelFiles:
    work = partial(
        fetch,
        source,
        **{"quant": None, "cache": cache, "on_progress": lambda *_: None, "hub_endpoint": hub.endpoint} | options,
    )
    return anyio.run(work)


def test_the_chosen_quant_and_its_configuration_are_downloaded(hub: Hub, tmp_path: Path) -> None:
    gguf_repo(hub)
    told: list[tuple[str, int, int]] = []

    files = fetch_now(hub, tmp_path, on_progress=lambda *args: told.append(args))

    assert files.path == tmp_path / f"hub/models--org--model/snapshots/{hub.commit}/m-Q4_0.gguf"
    assert files.path.read_bytes() == Q4
    assert (files.size_bytes, files.origin) == (len(Q4), f"hf:org/model@{hub.commit}")
    assert hub.downloads() == ["config.json", "m-Q4_0.gguf"]
    downloaded = [done for stage, done, _ in told if stage == "download"]
    assert downloaded == sorted(downloaded)
    assert [t for t in told if t[0] == "download"][-1] == ("download", len(Q4) + 2, len(Q4) + 2)
    assert ("verify", len(Q4), len(Q4)) in told


def test_the_blob_lies_where_other_tools_look_for_it(hub: Hub, tmp_path: Path) -> None:
    gguf_repo(hub)

    files = fetch_now(hub, tmp_path)

    assert files.path.is_symlink()
    assert files.path.resolve() == (tmp_path / "hub/models--org--model/blobs" / hub.sha256("m-Q4_0.gguf")).resolve()


def test_once_cached_no_network_is_needed(hub: Hub, tmp_path: Path) -> None:
    gguf_repo(hub)
    first = fetch_now(hub, tmp_path)
    hub.stop()

    assert fetch_now(hub, tmp_path) == first
    assert fetch_now(hub, tmp_path, offline=True) == first
    assert fetch_now(hub, tmp_path, "org/model", quant="q4_0") == first


def test_a_new_revision_is_an_update(hub: Hub, tmp_path: Path) -> None:
    gguf_repo(hub)
    fetch_now(hub, tmp_path)
    hub.commit, hub.files["m-Q4_0.gguf"] = "d1" * 20, b"GGUF new"

    assert fetch_now(hub, tmp_path).path.read_bytes() == Q4
    assert fetch_now(hub, tmp_path, "hf:org/model:Q4_0@v1").path.read_bytes() == b"GGUF new"


def test_a_file_that_vanished_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    gguf_repo(hub)
    fetch_now(hub, tmp_path).path.resolve().unlink()

    assert fetch_now(hub, tmp_path).path.read_bytes() == Q4
    assert hub.downloads().count("config.json") == 1


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    gguf_repo(hub)
    hub.cut_after_bytes = [4096]

    files = fetch_now(hub, tmp_path)

    assert files.path.read_bytes() == Q4
    assert hub.ranges == ["4096-"]


def test_a_cancelled_download_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    """The fetch ends at once; what had arrived is kept and only the rest is asked for."""
    gguf_repo(hub)
    hub.gate = threading.Event()

    async def cancel_midway() -> None:
        arrived = anyio.Event()

        def on_progress(_stage: str, done: int, _total: int) -> None:
            if done >= 4000:
                anyio.from_thread.run_sync(arrived.set)

        # The server is silent for longer than this.
        with anyio.fail_after(3):
            async with anyio.create_task_group() as tg:
                tg.start_soon(ask, on_progress)
                await arrived.wait()
                tg.cancel_scope.cancel()
        gate, hub.gate = hub.gate, None
        gate.set()
        assert (await ask(lambda *_: None)).path.read_bytes() == Q4

    async def ask(on_progress: Any) -> ModelFiles:
        return await fetch(
            "hf:org/model:Q4_0", quant=None, cache=tmp_path, on_progress=on_progress, hub_endpoint=hub.endpoint
        )

    anyio.run(cancel_midway)

    assert hub.ranges
    assert hub.downloads().count("m-Q4_0.gguf") == 1 + len(hub.ranges)
    assert all(int(r.rstrip("-")) >= 3072 for r in hub.ranges)


def test_a_partial_file_of_an_earlier_process_is_used(hub: Hub, tmp_path: Path) -> None:
    gguf_repo(hub)
    part = tmp_path / "hub/models--org--model/blobs" / f"{hub.sha256('m-Q4_0.gguf')}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(Q4[:5000])

    assert fetch_now(hub, tmp_path).path.read_bytes() == Q4
    assert hub.ranges == ["5000-"]
    assert not part.exists()


def test_a_partial_file_that_is_too_long_is_of_no_use(hub: Hub, tmp_path: Path) -> None:
    gguf_repo(hub)
    part = tmp_path / "hub/models--org--model/blobs" / f"{hub.sha256('m-Q4_0.gguf')}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(Q4 + b"more")

    assert fetch_now(hub, tmp_path).path.read_bytes() == Q4


def test_a_file_with_another_hash_than_listed_is_deleted_and_refused(hub: Hub, tmp_path: Path) -> None:
    gguf_repo(hub)
    hub.listed_sha256 = {"m-Q4_0.gguf": "ab" * 32}
    found = hashlib.sha256(Q4).hexdigest()

    with pytest.raises(SourceError, match=f"m-Q4_0.gguf has sha256 {found}, the hub lists {'ab' * 32}"):
        fetch_now(hub, tmp_path)

    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size == len(Q4)]


def test_a_damaged_blob_of_another_tool_is_replaced(hub: Hub, tmp_path: Path) -> None:
    gguf_repo(hub)
    blob = tmp_path / "hub/models--org--model/blobs" / hub.sha256("m-Q4_0.gguf")
    blob.parent.mkdir(parents=True)
    blob.write_bytes(bytes(len(Q4)))

    assert fetch_now(hub, tmp_path).path.read_bytes() == Q4


def test_a_quant_that_is_not_there_is_answered_with_what_is(hub: Hub, tmp_path: Path) -> None:
    gguf_repo(hub)

    with pytest.raises(SourceError, match=r"hf:org/model has no .gguf file with quant = 'Q4_1': it has Q4_0, Q8_0"):
        fetch_now(hub, tmp_path, "hf:org/model:Q4_1")

    assert hub.downloads() == []


def test_the_source_and_the_spec_must_not_ask_for_two_quants(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the source says Q4_0, quant = 'Q8_0'"):
        fetch_now(hub, tmp_path, quant="Q8_0")


def test_a_quant_that_is_no_name_is_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a name"):
        fetch_now(hub, tmp_path, "hf:org/model", quant="../../x")

    assert hub.requests == []


def test_a_split_model_comes_with_all_its_shards(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"m-00001-of-00002.gguf": b"GGUFa", "m-00002-of-00002.gguf": b"GGUFbb"}

    files = fetch_now(hub, tmp_path, "hf:org/model")

    assert files.path.name == "m-00001-of-00002.gguf"
    assert files.path.with_name("m-00002-of-00002.gguf").read_bytes() == b"GGUFbb"
    assert files.size_bytes == 11


def test_a_safetensors_model_comes_with_tokenizer_and_template_and_no_code(hub: Hub, tmp_path: Path) -> None:
    small = ["chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    hub.files = dict.fromkeys(small, b"{}") | {
        "model.safetensors": b"weights",
        "modeling.py": b"import os",
        "pytorch_model.bin": b"pickle",
    }

    files = fetch_now(hub, tmp_path, "org/model")

    assert sorted(p.name for p in files.path.iterdir()) == sorted([*small, "model.safetensors"])
    assert files.path.name == hub.commit
    assert files.size_bytes == 7


def test_a_pickle_repository_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}

    with pytest.raises(SourceError, match="only as pickles"):
        fetch_now(hub, tmp_path, "org/model")


@pytest.mark.parametrize("name", ["../../evil.gguf", "/evil.gguf", "a/../../evil.gguf", "..\\evil.gguf"])
def test_a_file_name_that_leaves_the_cache_condemns_the_repository(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.files = {name: b"evil"}

    with pytest.raises(SourceError, match="refused, the hub lists a file"):
        fetch_now(hub, tmp_path, "hf:org/model")

    assert hub.downloads() == []


def test_a_hash_that_is_none_condemns_the_repository(hub: Hub, tmp_path: Path) -> None:
    """The hash becomes a file name."""
    gguf_repo(hub)
    hub.listed_sha256 = {"m-Q4_0.gguf": "../../evil"}

    with pytest.raises(SourceError, match="refused, the hub lists a file"):
        fetch_now(hub, tmp_path)


def test_a_source_that_climbs_is_no_source(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        fetch_now(hub, tmp_path, "hf:org/..")


def test_the_token_is_sent(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf_repo(hub)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    fetch_now(hub, tmp_path)

    assert hub.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize("refusal", [(403, "GatedRepo"), (403, "Forbidden"), (401, "GatedRepo")])
def test_a_gated_repository_says_how_to_get_in(hub: Hub, tmp_path: Path, refusal: tuple[int, str]) -> None:
    hub.refuse = refusal

    with pytest.raises(SourceError, match="set HF_TOKEN in the neuron's environment") as caught:
        fetch_now(hub, tmp_path)

    assert caught.value.should_retry is False


@pytest.mark.parametrize("source", ["hf:org/other", "hf:org/model"])
def test_a_repository_that_does_not_exist_or_is_private_is_named(hub: Hub, tmp_path: Path, source: str) -> None:
    """Without a token the hub answers 401 for both."""
    if source == "hf:org/model":
        hub.refuse = (401, "RepoNotFound")

    with pytest.raises(SourceError, match=f"no repository '{source[3:]}', or it is private") as caught:
        fetch_now(hub, tmp_path, source)

    assert caught.value.should_retry is False


def test_a_revision_that_does_not_exist_is_named(hub: Hub, tmp_path: Path) -> None:
    gguf_repo(hub)

    with pytest.raises(SourceError, match="has no revision 'v9'"):
        fetch_now(hub, tmp_path, "hf:org/model:Q4_0@v9")


def test_a_hub_that_cannot_be_reached_is_a_reason_to_retry(hub: Hub, tmp_path: Path) -> None:
    hub.stop()

    with pytest.raises(SourceError, match="is not cached and could not be fetched") as caught:
        fetch_now(hub, tmp_path)

    assert caught.value.should_retry is True
    assert caught.value.retry_after_seconds == 30


def test_a_hub_in_trouble_is_a_reason_to_retry(hub: Hub, tmp_path: Path) -> None:
    hub.refuse = (503, "")

    with pytest.raises(SourceError, match="503") as caught:
        fetch_now(hub, tmp_path)

    assert caught.value.should_retry is True


def test_offline_nothing_is_asked(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not cached and this node is offline"):
        fetch_now(hub, tmp_path, offline=True)

    assert hub.requests == []


def test_offline_a_snapshot_that_another_tool_fetched_is_used(hub: Hub, tmp_path: Path) -> None:
    storage = tmp_path / "shared/models--org--model"
    snapshot = storage / "snapshots" / hub.commit
    snapshot.mkdir(parents=True)
    (snapshot / "m-Q4_0.gguf").write_bytes(Q4)
    (storage / "refs").mkdir()
    (storage / "refs/main").write_text(hub.commit)

    files = fetch_now(hub, tmp_path, offline=True, hub_cache=tmp_path / "shared")

    assert files == ModelFiles(snapshot / "m-Q4_0.gguf", len(Q4), f"hf:org/model@{hub.commit}")


def test_an_endpoint_that_is_no_hub_is_named_as_such(hub: Hub, tmp_path: Path) -> None:
    gguf_repo(hub)
    hub.commit = "not a commit"

    with pytest.raises(SourceError, match="names no commit"):
        fetch_now(hub, tmp_path)


@pytest.mark.parametrize(
    ("env", "configured", "expected"),
    [
        ({}, None, "/cache/hub"),
        ({"HF_HOME": "/home"}, None, "/home/hub"),
        ({"HF_HOME": "/home", "HF_HUB_CACHE": "/shared"}, None, "/shared"),
        ({"HF_HUB_CACHE": "/shared"}, Path("/ours"), "/ours"),
        ({"HF_HUB_CACHE": ""}, None, "/cache/hub"),
    ],
)
def test_the_hub_cache_is_where_the_user_has_it(env: dict[str, str], configured: Path | None, expected: str) -> None:
    assert choose_hub_cache(env, Path("/cache"), configured) == Path(expected)


def test_the_projector_of_a_model_comes_with_it_and_stays_known(hub: Hub, tmp_path: Path) -> None:
    gguf_repo(hub)
    hub.files["mmproj-f16.gguf"] = b"GGUFP" + bytes(500)

    first = fetch_now(hub, tmp_path)
    again = fetch_now(hub, tmp_path, offline=True)

    assert first.beside == {"mmproj": first.path.with_name("mmproj-f16.gguf")}
    assert first.beside["mmproj"].read_bytes() == hub.files["mmproj-f16.gguf"]
    assert again == first
    assert first.size_bytes == len(Q4)
