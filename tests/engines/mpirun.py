"""A stand-in for Open MPI's mpirun on one node: ranks by -n, its variables, and SIGTERM to all when one fails.

``-q`` gives them no variables; ``--continuous`` loses the last before it starts anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time


def main(arguments: list[str]) -> int:
    size, rankless, lost = 1, False, False
    while arguments and arguments[0].startswith("-"):
        word = arguments.pop(0)
        if word in ("-n", "-np"):
            size = int(arguments.pop(0))
        elif word == "-x":
            arguments.pop(0)
        rankless = rankless or word == "-q"
        lost = lost or word == "--continuous"
    ranks = []
    for rank in range(size - lost):
        own = {} if rankless else {"OMPI_COMM_WORLD_RANK": f"{rank}", "OMPI_COMM_WORLD_SIZE": f"{size}"}
        ranks.append(subprocess.Popen(arguments, env={**os.environ, **own}, process_group=0))
    code = 0
    while None in (codes := [rank.poll() for rank in ranks]):
        time.sleep(0.05)
        if not code and (failed := [one for one in codes if one]):
            code = failed[0]
            for rank in ranks:
                rank.terminate()
    return code or max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
