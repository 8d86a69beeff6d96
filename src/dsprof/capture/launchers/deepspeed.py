"""deepspeed: on one node nsys stands before it."""

from __future__ import annotations

from dsprof.capture.launchers._launcher import Form, Hint, Launcher

_NODES = Hint(
    "Only the ranks of this node are recorded; those of others are started by ssh, where no nsys is.",
    when=r"(^| )(--num_nodes[ =](?!1( |$))|--hostfile\b|-H\b)",
)

LAUNCHER = Launcher(
    "deepspeed",
    (Form(calls=("deepspeed", "-m deepspeed.launcher.runner"), role="ranks", says="deepspeed", hints=(_NODES,)),),
)
