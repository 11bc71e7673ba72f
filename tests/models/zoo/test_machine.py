"""What /proc says of the machine."""

from __future__ import annotations

import re
from pathlib import Path

from models.zoo.machine import running_system, this_machine


def test_machine_of_cpuinfo(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text(
        "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor\t: 1\n"
        "model name\t: A CPU\nflags\t\t: fpu avx2 avx512_vnni\n"
    )
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    x86, arm = this_machine(tmp_path / "x86"), this_machine(tmp_path / "arm")
    assert (x86.cpu, x86.instruction_set) == ("A CPU", ("avx2", "avx512_vnni"))
    assert arm.instruction_set == ("asimd", "asimddp")
    assert arm.cpu
    assert x86.cpus >= 1
    assert this_machine(tmp_path / "missing").instruction_set == ()


def test_arm_machines_are_named_after_implementer_and_part(tmp_path: Path) -> None:
    """Linux on arm64 has no model name, so that all would be the architecture only."""
    for part, file in (("0xd40", tmp_path / "v1"), ("0xd4f", tmp_path / "v2")):
        file.write_text(
            "processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
            f"CPU variant\t: 0x1\nCPU part\t: {part}\nCPU revision\t: 1\n"
        )
    one, other = this_machine(tmp_path / "v1").cpu, this_machine(tmp_path / "v2").cpu
    assert one.endswith(" (implementer 0x41, part 0xd40)")
    assert other.endswith(" (implementer 0x41, part 0xd4f)")
    (tmp_path / "named").write_text("model name\t: ARMv7 rev 4\nCPU implementer\t: 0x41\nCPU part\t: 0xd03\n")
    assert this_machine(tmp_path / "named").cpu == "ARMv7 rev 4"
    assert not re.search("implementer|part", this_machine(tmp_path / "missing").cpu)


def test_running_systems(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("here", "there")]
    for file in files:
        file.write_text(f"{file.name}\n")
    one, other = map(running_system, files)
    assert one == running_system(files[0])
    assert one != other
    assert re.fullmatch("[0-9a-f]{16}", one)
    without = running_system(tmp_path / "missing")
    assert without == running_system(tmp_path / "missing too"), "from the host name"
    assert without not in (one, other)
