"""torchrun: on one node nsys stands before it, and all ranks are in one report; with --per-rank behind it."""

from __future__ import annotations

from dsprof.capture.launchers._launcher import Form, Hint, Launcher, Ranks
from dsprof.capture.launchers._words import Options

#: As `torch.distributed.run` has them.
OPTIONS = Options(
    values="--nnodes --nproc-per-node --rdzv-backend --rdzv-endpoint --rdzv-id --rdzv-conf --max-restarts "
    "--monitor-interval --start-method --event-log-handler --role --log-dir -r --redirects -t --tee "
    "--local-ranks-filter --node-rank --master-addr --master-port --local-addr --logs-specs --numa-binding "
    "--signals-to-handle --duplicate-stdout-filters --duplicate-stderr-filters --shutdown-timeout "
    "--virtual-local-rank-value",
    flags="-h --help --standalone -m --module --no-python --run-path --virtual-local-rank --use-env --use-agent-store "
    "--no-use-agent-store",
    underscores=True,
)

LAUNCHER = Launcher(
    "torchrun",
    (
        Form(
            calls=("torchrun", "-m torch.distributed.run", "-m torch.distributed.launch"),
            role="ranks",
            says="torchrun",
            ranks=Ranks(
                options=OPTIONS,
                variables=(("RANK", "LOCAL_WORLD_SIZE"),),
                outside="if asked",
                python=True,
                no_python="--no-python",
                refused=r"(^| )--run[-_]path( |$)",
            ),
            hints=(
                Hint(
                    "Only the ranks of this node are recorded: start it so on each, with an --out of its own.",
                    when=r"--nnodes[ =](?!1( |$)|1:1( |$))",
                ),
            ),
        ),
    ),
)
