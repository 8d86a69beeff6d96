"""accelerate launch: on one node nsys stands before it."""

from __future__ import annotations

from dsprof.capture.launchers._launcher import Form, Hint, Launcher

_NODES = Hint(
    "Only the ranks of this node are recorded: start it so on each, with an --out of its own.",
    when=r"--num_machines[ =](?!1( |$))",
)

LAUNCHER = Launcher(
    "accelerate",
    (
        Form(
            calls=("accelerate launch", "accelerate-launch", "-m accelerate.commands.launch"),
            role="ranks",
            says="accelerate",
            hints=(_NODES,),
        ),
    ),
)
