"""Make safetensors of a GGUF model, once: its numbers as bfloat16, with its tokenizer, template and configuration.

Run as `python tests/safetensors_of_gguf.py MODEL.gguf FOLDER`.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

NOTE = "made-of.json"


def converted(gguf: Path, folder: Path) -> Path:
    """Return *folder* with the model of *gguf* as safetensors, made if it is not there or is not as it was made."""
    if not is_intact(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            made = Path(work, "made")
            _convert(gguf, made)
            hashes = {file.name: _sha256(file) for file in sorted(made.iterdir())}
            (made / NOTE).write_text(json.dumps(hashes, indent=1))
            if folder.exists():
                folder.rename(Path(work, "old"))
            made.rename(folder)
    return folder


def is_intact(folder: Path) -> bool:
    """Whether every file of *folder* is as it was made."""
    try:
        noted = json.loads((folder / NOTE).read_text())
        return bool(noted) and all(_sha256(folder / name) == sha256 for name, sha256 in noted.items())
    except (OSError, ValueError):
        return False


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # What was read of a GGUF refuses to be saved: its numbers go into a fresh model, which knows nothing of that.
    known = {k: v for k, v in read.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    fresh = AutoModelForCausalLM.from_config(type(read.config).from_dict(known), dtype=torch.bfloat16)
    fresh.load_state_dict(read.state_dict())
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    print(converted(Path(sys.argv[1]), Path(sys.argv[2])))
