"""Choose the files of one model among the names in a directory, a wheel or a repository. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePosixPath

from cortex.neuron.sources.errors import SourceError

_SHARD = re.compile(r"(?P<stem>.+)-(?P<at>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_LABEL = re.compile(
    r"(?<![A-Za-z0-9])(?:UD-)?(?:I?Q\d|TQ\d|MXFP\d|NVFP\d|BF16|FP?16|FP?32)(?:_[A-Za-z0-9]+)*(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
# Of a repository that also keeps its weights in another layout (`consolidated.safetensors`), these are the model.
_STANDARD_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_SAFETENSORS_SHARD = re.compile(r"(?P<stem>.+)-(?P<at>\d+)-of-(?P<count>\d+)\.safetensors")
_COMPANION = re.compile(
    r"(config|generation_config|preprocessor_config|processor_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|(tokenizer|chat_template)[A-Za-z0-9._-]*\.(json|jinja|model|txt)"
    r"|vocab\.txt|merges\.txt|[A-Za-z0-9_-]+\.tiktoken|.+\.safetensors\.index\.json"
)
_PROJECTOR = "mmproj"
_NOT_A_MODEL = (_PROJECTOR, "imatrix")
# Of one projector in several layouts; llama.cpp's own default is the first.
_PROJECTOR_LABELS = ("F16", "FP16", "BF16", "Q8_0", "F32", "FP32")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


@dataclass(frozen=True)
class Choice:
    """Names of one model's files: what to *load* (a `.gguf` or a directory), its weights, and what comes with them.

    The *projector* is what lets a GGUF model see images.
    """

    load: str
    weights: tuple[str, ...]
    companions: tuple[str, ...]
    projector: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every file that is needed."""
        return self.weights + self.companions + ((self.projector,) if self.projector else ())


def choose_files(names: Iterable[str], quant: str | None, where: str) -> Choice:
    """Return the files of the one model among *names*, paths relative to *where*.

    A GGUF model is preferred, with all its shards; else a directory of safetensors with its `config.json`. Raises
    SourceError that lists what there is if *quant* fits none or several remain.
    """
    all_names = sorted(names)
    projector = None
    if models := _gguf_models(all_names):
        weights = _all_shards(_choose_model(models, quant, where), where)
        load, directory = weights[0], PurePosixPath(weights[0]).parent
        projector = choose_projector(all_names, directory)
    else:
        directory, weights = _choose_safetensors(all_names, where)
        load = str(directory)
        if quant is not None:
            raise SourceError(f"{where} has no .gguf file to choose by quant = {quant!r}; leave the quant out")
    companions = tuple(n for n in all_names if _is_companion(PurePosixPath(n), directory))
    return Choice(load, weights, companions, projector)


def choose_projector(names: Iterable[str], directory: PurePosixPath) -> str | None:
    """Return the vision projector among *names* that is beside the weights in *directory*, else at the root.

    Of one in several layouts it is the F16; None where there is none, or several that differ in more than that.
    """
    projectors = [path for path in map(PurePosixPath, names) if is_projector(path.name)]
    beside = [path for path in projectors if path.parent == directory]
    beside = beside or [path for path in projectors if path.parent == PurePosixPath()]
    by_label = {quant_of(path.name): str(path) for path in beside}
    if len(by_label) < len(beside):
        return None
    known = next((by_label[label] for label in _PROJECTOR_LABELS if label in by_label), None)
    return known or (next(iter(by_label.values())) if len(by_label) == 1 else None)


def is_projector(name: str) -> bool:
    """Whether a file of this name lets a model see images."""
    return _PROJECTOR in name.lower() and name.lower().endswith(".gguf")


def is_only_model(names: Iterable[str]) -> bool:
    """Whether *names*, of one directory, hold a single GGUF model, so that what is beside it is its own."""
    return len(_gguf_models(sorted(names))) == 1


def quant_of(name: str) -> str | None:
    """Return the quantisation that a file name states, such as `Q4_K_M`, or None."""
    labels = _LABEL.findall(name)
    return labels[-1].upper() if labels else None


def has_quant(name: str, quant: str) -> bool:
    """Whether *quant* stands in *name* as a word of its own: `Q4_K` is not in `…-Q4_K_M.gguf`."""
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(quant)}(?![A-Za-z0-9_])", name, re.IGNORECASE) is not None


def shard_names(name: str) -> tuple[str, ...]:
    """Return the names of all shards of the model that *name* belongs to, first shard first."""
    match = _SHARD.fullmatch(name)
    if match is None:
        return (name,)
    return tuple(f"{match['stem']}-{at:05d}-of-{match['count']}.gguf" for at in range(1, int(match["count"]) + 1))


def _gguf_models(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the GGUF files that hold a language model, grouped by the name of their first shard."""
    models: dict[str, list[str]] = defaultdict(list)
    for name in names:
        base = PurePosixPath(name).name.lower()
        if base.endswith(".gguf") and not any(word in base for word in _NOT_A_MODEL):
            models[next(iter(shard_names(name)), name)].append(name)
    return models


def _choose_model(models: dict[str, list[str]], quant: str | None, where: str) -> tuple[str, list[str]]:
    """Return the first shard and the shards there are of the one model that is *quant*."""
    fitting = [first for first in models if quant is None or has_quant(first, quant)]
    if quant is not None and len(fitting) > 1:
        # Both `…-Q4_K_M` and `…-UD-Q4_K_M` contain the word; the one that is called exactly so is meant.
        fitting = [first for first in fitting if quant_of(first) == quant.upper()] or fitting
    if len(fitting) == 1:
        return fitting[0], models[fitting[0]]
    labels = sorted({quant_of(first) or PurePosixPath(first).stem for first in models})
    offer = f"it has {', '.join(labels)}"
    if quant is None:
        raise SourceError(f"{where} has {len(models)} .gguf models; choose one with quant: {offer}")
    if fitting:
        raise SourceError(f"{where}: quant = {quant!r} fits several files: {', '.join(fitting)}; name one of them")
    near = get_close_matches(quant.upper(), labels, n=1, cutoff=0.4)
    hint = f"; the nearest is {near[0]}" if near else ""
    raise SourceError(f"{where} has no .gguf file with quant = {quant!r}: {offer}{hint}")


def _all_shards(model: tuple[str, list[str]], where: str) -> tuple[str, ...]:
    """Return all shards of *model* in order; raise SourceError if one is not there."""
    first, present = model
    shards = shard_names(first) or (first,)
    missing = sorted(set(shards) - set(present))
    if missing:
        raise SourceError(f"{where}: of the {len(shards)} shards of {first} there is no {', '.join(missing[:3])}")
    return shards


def _choose_safetensors(names: Sequence[str], where: str) -> tuple[PurePosixPath, tuple[str, ...]]:
    """Return the directory that holds the one safetensors model, and its weights."""
    by_directory: dict[PurePosixPath, list[str]] = defaultdict(list)
    known = set(names)
    for path in map(PurePosixPath, names):
        if path.suffix == ".safetensors" and str(path.parent / "config.json") in known:
            by_directory[path.parent].append(str(path))
    root = PurePosixPath()
    if len(by_directory) > 1 and root not in by_directory:
        raise SourceError(
            f"{where} has several models: {', '.join(map(str, by_directory))}; fetch one and give its path"
        )
    if not by_directory:
        raise SourceError(f"{where} {_what_is_missing(names)}")
    directory = root if root in by_directory else next(iter(by_directory))
    files = by_directory[directory]
    standard = [f for f in files if _STANDARD_WEIGHTS.fullmatch(PurePosixPath(f).name)]
    return directory, _whole_set(tuple(standard or files), where)


def _whole_set(weights: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Return *weights* if no shard that their names promise is missing."""
    for match in filter(None, map(_SAFETENSORS_SHARD.fullmatch, weights)):
        of_this = sum(
            w.startswith(f"{match['stem']}-") and w.endswith(f"-of-{match['count']}.safetensors") for w in weights
        )
        if of_this != int(match["count"]):
            raise SourceError(
                f"{where}: of the {int(match['count'])} shards of {match['stem']} only {of_this} are there"
            )
    return weights


def _what_is_missing(names: Sequence[str]) -> str:
    """Say why *names* make no model that may be loaded."""
    if any(n.endswith(".safetensors") for n in names):
        return "has .safetensors files without a config.json beside them"
    if any(n.lower().endswith(_PICKLES) for n in names):
        return (
            "has its weights only as pickles (.bin, .pt), which can run code when they are loaded; "
            "use a .safetensors or .gguf version of the model"
        )
    return "has no model: expected a .gguf file, or .safetensors with a config.json"


def _is_companion(path: PurePosixPath, directory: PurePosixPath) -> bool:
    """Whether *path* is a tokenizer, template or configuration of the model in *directory*."""
    return path.parent in (directory, PurePosixPath()) and _COMPANION.fullmatch(path.name) is not None
