"""What the documentation says of options is what they are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from cortex.core.model_spec import ModelSpec, check_spec
from cortex.engines.llamacpp_options import Options, options_of
from cortex.wire.engine_api import Device, EngineSpec

TEXT = (Path(__file__).parents[2] / "docs/engines.md").read_text()
GPUS = tuple(Device(at, "cuda", "gpu", 24 << 30) for at in range(2))


def test_every_option_of_llamacpp_has_its_line() -> None:
    section = TEXT.split("### Options")[1].split("###")[0]

    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == set(Options.__struct_fields__)


def test_the_entries_that_are_shown_are_read() -> None:
    section = TEXT.split("## `llamacpp`")[1].split("\n## ")[0]
    for shown in re.findall(r"```toml [^\n]*\n(.*?)```", section, re.DOTALL):
        for entry in tomllib.loads(shown)["models"]:
            spec = check_spec(ModelSpec(**entry), "docs")
            options_of(EngineSpec(model="m", engine="llamacpp", path="", devices=GPUS, options=spec.options))
