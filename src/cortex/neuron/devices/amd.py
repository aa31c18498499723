"""AMD GPUs, through the sysfs of the amdgpu driver. Not run on real hardware in this project's tests: a fake tree is.

The files are described in the kernel's documentation, https://docs.kernel.org/gpu/amdgpu/driver-misc.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from pathlib import Path

from cortex.core.logging import get_logger
from cortex.neuron.devices.probe import DeviceUnreadable, Found, Reading, found_device
from cortex.wire.node_api import DeviceInfo

AMD_VENDOR = "0x1002"
_CARD = re.compile(r"card(\d+)")

log = get_logger(__name__)


class AmdProbe:
    """Reads `/sys/class/drm/card*/device`."""

    kind = "rocm"

    def __init__(self, root: Path = Path("/")) -> None:
        """*root* is where /sys is."""
        self._root = root

    def find(self) -> Found:
        """Return the GPUs that the amdgpu driver drives, in the order of their card numbers."""
        driver = _text(self._root / "sys/module/amdgpu/version")
        devices, warnings = [], []
        for ordinal, card in enumerate(self._cards()):
            try:
                devices.append(self._describe(ordinal, card, driver))
            except (OSError, ValueError) as error:
                warnings.append(
                    f"AMD GPU {card.parent.name} is left out, its memory cannot be read: {error}; see dmesg"
                )
        return Found(tuple(devices), warnings=tuple(warnings))

    def read(self, device: DeviceInfo) -> Reading:
        """Return memory, utilisation and temperature of *device*. Raises DeviceUnreadable, as when it is gone."""
        card = next((card for card in self._cards() if _identity(card) == device.uuid), None)
        if card is None:
            raise DeviceUnreadable("the amdgpu driver does not list it any more; see dmesg")
        try:
            total, used = _number(card / "mem_info_vram_total"), _number(card / "mem_info_vram_used")
        except (OSError, ValueError) as error:
            raise DeviceUnreadable(f"its memory cannot be read: {error}") from None
        return Reading(used, max(0, total - used), _optional(card / "gpu_busy_percent"), _temperature(card))

    def memory_by_pid(self, device: DeviceInfo, pids: Set[int]) -> Mapping[int, int]:
        """Return nothing: sysfs does not tell which process holds what."""
        return {}

    def _cards(self) -> list[Path]:
        """Return the `device` directory of each AMD card, connectors such as `card0-DP-1` left out."""
        numbered = [
            (match, path) for path in self._root.glob("sys/class/drm/card*") if (match := _CARD.fullmatch(path.name))
        ]
        ordered = [path / "device" for _, path in sorted(numbered, key=lambda pair: int(pair[0][1]))]
        ours = [card for card in ordered if _text(card / "vendor") == AMD_VENDOR]
        driven = [card for card in ours if (card / "mem_info_vram_total").exists()]
        if len(driven) < len(ours):
            log.debug("amd_gpu_without_amdgpu_driver", cards=len(ours) - len(driven))
        return driven

    def _describe(self, ordinal: int, card: Path, driver: str | None) -> DeviceInfo:
        name = _text(card / "product_name") or f"AMD GPU {_text(card / 'device') or 'of unknown type'}"
        return found_device(
            self.kind, ordinal, name, _number(card / "mem_info_vram_total"), uuid=_identity(card), driver=driver
        )


def _identity(card: Path) -> str:
    """Return the GPU's own id, or its PCI address where it has none."""
    return _text(card / "unique_id") or card.resolve().name


def _temperature(card: Path) -> float | None:
    """Return the first temperature of the card, which hwmon gives in thousandths of a degree."""
    for path in sorted(card.glob("hwmon/hwmon*/temp1_input")):
        thousandths = _optional(path)
        if thousandths is not None:
            return thousandths / 1000
    return None


def _number(path: Path) -> int:
    return int(path.read_text())


def _optional(path: Path) -> float | None:
    """Return the number in a file that not every card has or lets one read, else None."""
    try:
        return float(_number(path))
    except (OSError, ValueError):
        return None


def _text(path: Path) -> str | None:
    """Return the text of the file at *path*, None if there is none."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None
