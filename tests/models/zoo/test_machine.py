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
