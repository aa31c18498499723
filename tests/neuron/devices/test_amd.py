from __future__ import annotations

from pathlib import Path

import pytest

from cortex.neuron.devices.amd import AmdProbe
from cortex.neuron.devices.probe import DeviceUnreadable, Found, Reading

GIB = 1 << 30


def add_card(root: Path, number: int, address: str = "0000:03:00.0", **files: str) -> Path:
    """Add a card to the sysfs below *root*; return its PCI directory, where a driver's files are."""
    pci = root / "sys/devices/pci0000:00" / address
    pci.mkdir(parents=True)
    known = {
        "vendor": "0x1002",
        "device": "0x744c",
        "mem_info_vram_total": str(24 * GIB),
        "mem_info_vram_used": str(2 * GIB),
        "gpu_busy_percent": "37",
    }
    for name, text in (known | files).items():
        (pci / name).write_text(f"{text}\n")
    card = root / f"sys/class/drm/card{number}"
    card.mkdir(parents=True)
    (card / "device").symlink_to(pci)
    return pci


def add_temperature(pci: Path, thousandths: int) -> None:
    sensor = pci / "hwmon/hwmon3"
    sensor.mkdir(parents=True)
    (sensor / "temp1_input").write_text(f"{thousandths}\n")


def test_a_machine_without_sysfs_has_no_devices(tmp_path: Path) -> None:
    assert AmdProbe(tmp_path).find() == Found()


def test_a_card_is_described_by_its_files(tmp_path: Path) -> None:
    add_card(tmp_path, 0, product_name="AMD Radeon RX 7900 XTX", unique_id="a1b2c3d4")

    (device,) = AmdProbe(tmp_path).find().devices

    assert (device.kind, device.ordinal, device.name) == ("rocm", 0, "AMD Radeon RX 7900 XTX")
    assert (device.memory_total_bytes, device.uuid, device.driver) == (24 * GIB, "a1b2c3d4", None)


def test_a_card_without_name_and_id_goes_by_its_type_and_address(tmp_path: Path) -> None:
    add_card(tmp_path, 0, product_name="", address="0000:0a:00.0")

    (device,) = AmdProbe(tmp_path).find().devices

    assert (device.name, device.uuid) == ("AMD GPU 0x744c", "0000:0a:00.0")


def test_cards_are_counted_by_number_and_those_of_others_are_not(tmp_path: Path) -> None:
    """card10 comes after card2; a connector, another vendor and another driver are no devices."""
    add_card(tmp_path, 10, "0000:0a:00.0")
    add_card(tmp_path, 2, "0000:02:00.0")
    add_card(tmp_path, 0, "0000:00:02.0", vendor="0x8086")
    (add_card(tmp_path, 1, "0000:01:00.0") / "mem_info_vram_total").unlink()
    (tmp_path / "sys/class/drm/card2-DP-1").mkdir()

    found = AmdProbe(tmp_path).find()

    assert [(device.ordinal, device.uuid) for device in found.devices] == [(0, "0000:02:00.0"), (1, "0000:0a:00.0")]


def test_a_card_whose_memory_cannot_be_read_is_a_warning(tmp_path: Path) -> None:
    add_card(tmp_path, 0, mem_info_vram_total="")

    found = AmdProbe(tmp_path).find()

    assert found.devices == ()
    assert "AMD GPU card0 is left out" in found.warnings[0]


def test_the_version_of_a_driver_that_has_one_is_told(tmp_path: Path) -> None:
    add_card(tmp_path, 0)
    module = tmp_path / "sys/module/amdgpu"
    module.mkdir(parents=True)
    (module / "version").write_text("6.8.5\n")

    assert AmdProbe(tmp_path).find().devices[0].driver == "6.8.5"


def test_a_reading_has_memory_utilisation_and_temperature(tmp_path: Path) -> None:
    add_temperature(add_card(tmp_path, 0), 54_000)
    probe = AmdProbe(tmp_path)
    (device,) = probe.find().devices

    reading = probe.read(device)

    assert reading == Reading(2 * GIB, 22 * GIB, utilization_pct=37.0, temp_c=54.0)


def test_what_a_card_does_not_tell_is_none(tmp_path: Path) -> None:
    (add_card(tmp_path, 0) / "gpu_busy_percent").unlink()
    probe = AmdProbe(tmp_path)
    (device,) = probe.find().devices

    reading = probe.read(device)

    assert (reading.utilization_pct, reading.temp_c) == (None, None)
    assert probe.memory_by_pid(device, {1}) == {}


def test_a_card_that_is_gone_is_unreadable_and_the_next_one_is_not_taken_for_it(tmp_path: Path) -> None:
    add_card(tmp_path, 0, "0000:03:00.0")
    add_card(tmp_path, 1, "0000:04:00.0", mem_info_vram_used=str(5 * GIB))
    probe = AmdProbe(tmp_path)
    first, second = probe.find().devices
    (tmp_path / "sys/class/drm/card0/device").unlink()

    with pytest.raises(DeviceUnreadable, match="does not list it any more"):
        probe.read(first)

    assert probe.read(second).used_bytes == 5 * GIB


def test_a_card_that_fails_to_answer_is_unreadable(tmp_path: Path) -> None:
    pci = add_card(tmp_path, 0)
    probe = AmdProbe(tmp_path)
    (device,) = probe.find().devices
    (pci / "mem_info_vram_used").unlink()

    with pytest.raises(DeviceUnreadable, match="its memory cannot be read"):
        probe.read(device)
