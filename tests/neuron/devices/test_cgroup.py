from __future__ import annotations

from pathlib import Path

from cortex.neuron.devices.cgroup import Room, memory_room

MIB = 1 << 20
UNLIMITED_V1 = 9223372036854771712


def in_groups(root: Path, lines: str) -> None:
    path = root / "proc/self/cgroup"
    path.parent.mkdir(parents=True)
    path.write_text(lines)


def add_v2(root: Path, group: str, limit: int | str, usage: int, inactive_file: int = 0) -> None:
    directory = root / "sys/fs/cgroup" / group
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.current").write_text(f"{usage}\n")
    (directory / "memory.stat").write_text(f"anon 1\ninactive_file {inactive_file}\nactive_file 7\n")


def add_v1(root: Path, group: str, limit: int, usage: int, inactive_file: int = 0) -> None:
    directory = root / "sys/fs/cgroup/memory" / group
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (directory / "memory.usage_in_bytes").write_text(f"{usage}\n")
    (directory / "memory.stat").write_text(f"inactive_file 5\ntotal_inactive_file {inactive_file}\n")


def test_a_system_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert memory_room(tmp_path) is None


def test_a_group_without_a_limit_is_none(tmp_path: Path) -> None:
    in_groups(tmp_path, "0::/user.slice\n")
    add_v2(tmp_path, "user.slice", "max", 100 * MIB)

    assert memory_room(tmp_path) is None


def test_the_limit_of_a_container_counts_and_its_reclaimable_cache_is_free(tmp_path: Path) -> None:
    in_groups(tmp_path, "0::/\n")
    add_v2(tmp_path, "", 1000 * MIB, 400 * MIB, inactive_file=150 * MIB)

    assert memory_room(tmp_path) == Room(limit_bytes=1000 * MIB, free_bytes=750 * MIB)


def test_the_tightest_of_all_levels_counts(tmp_path: Path) -> None:
    """The outer group has the higher limit, and less left of it."""
    in_groups(tmp_path, "0::/pod/container\n")
    add_v2(tmp_path, "pod/container", 1000 * MIB, 100 * MIB)
    add_v2(tmp_path, "pod", 2000 * MIB, 1800 * MIB)

    assert memory_room(tmp_path) == Room(limit_bytes=1000 * MIB, free_bytes=200 * MIB)


def test_version_1_counts_the_cache_of_the_whole_subtree(tmp_path: Path) -> None:
    in_groups(tmp_path, "5:cpuset:/x\n4:cpu,memory:/job\n0::/\n")
    add_v1(tmp_path, "job", 1000 * MIB, 600 * MIB, inactive_file=100 * MIB)

    assert memory_room(tmp_path) == Room(limit_bytes=1000 * MIB, free_bytes=500 * MIB)


def test_the_path_of_the_host_is_found_at_the_top_of_the_mount(tmp_path: Path) -> None:
    """Without a namespace of its own a container sees its path on the host, but its own group at the top."""
    in_groups(tmp_path, "4:memory:/docker/0123abcd\n")
    add_v1(tmp_path, "", 1000 * MIB, 600 * MIB)

    assert memory_room(tmp_path) == Room(limit_bytes=1000 * MIB, free_bytes=400 * MIB)


def test_a_path_that_climbs_stays_below_the_mount(tmp_path: Path) -> None:
    in_groups(tmp_path, "0::/../../etc\n")
    add_v2(tmp_path, "", 1000 * MIB, 0)

    assert memory_room(tmp_path) == Room(limit_bytes=1000 * MIB, free_bytes=1000 * MIB)


def test_an_absent_limit_of_version_1_is_above_any_memory(tmp_path: Path) -> None:
    in_groups(tmp_path, "4:memory:/\n")
    add_v1(tmp_path, "", UNLIMITED_V1, 600 * MIB)

    room = memory_room(tmp_path)

    assert room is not None
    assert room.limit_bytes == UNLIMITED_V1


def test_a_group_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    in_groups(tmp_path, "0::/\n")
    add_v2(tmp_path, "", 100 * MIB, 120 * MIB)

    assert memory_room(tmp_path) == Room(limit_bytes=100 * MIB, free_bytes=0)
