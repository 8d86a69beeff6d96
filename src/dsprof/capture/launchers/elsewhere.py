"""What starts the program where this nsys does not see it: containers and Ray. There are only hints."""

from __future__ import annotations

from dsprof.capture.launchers._launcher import Form, Hint, Launcher

LAUNCHER = Launcher(
    "elsewhere",
    (
        Form(
            calls=tuple(f"{name} {verb}" for name in ("docker", "podman", "nerdctl") for verb in ("run", "exec")),
            role="elsewhere",
            says="a container",
            hints=(
                Hint("The program is no child of this nsys: mount nsys into the container, and run dsprof in there."),
            ),
        ),
        Form(
            calls=("ray start", "ray job submit", "ray job"),
            role="elsewhere",
            says="Ray",
            hints=(
                Hint(
                    "Ray starts the workers apart, so that this nsys does not see them: use its runtime_env with "
                    "nsight, or the engine's own switch (vLLM: --ray-workers-use-nsight)."
                ),
            ),
        ),
    ),
)
