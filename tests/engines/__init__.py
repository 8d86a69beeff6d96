"""Stand-ins for engines and launchers, laid out like installed programs: they serve nothing and launch little."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
#: By the name of the program: the file that stands in for it.
PROGRAMS = {"vllm": "vllm", "trtllm-serve": "trtllm_serve", "mpirun": "mpirun", "srun": "srun"}


def install(folder: Path) -> Path:
    """Programs of the engines' names in `folder`; the folder for PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in PROGRAMS.items():
        program = folder / name
        source = (HERE / f"{module}.py").read_text(encoding="utf-8")
        program.write_text(f"#!{sys.executable}\n{source}", encoding="utf-8")
        program.chmod(0o755)
    return folder
