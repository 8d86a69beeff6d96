"""``dsprof workloads``: a model or a page for a capture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsprof.cli.capture import MOST_SEED
from dsprof.cli.options import Force, app, say

workloads = typer.Typer(
    no_args_is_help=True,
    help="Make a model or a page for a capture.",
    epilog="Example: dsprof workloads page page.png",
)
app.add_typer(workloads, name="workloads")


@workloads.command(epilog="Example: dsprof workloads tiny checkpoint/ --seed 1")
def tiny(
    folder: Annotated[Path, typer.Argument(help="Where the checkpoint is written.")],
    size: Annotated[str, typer.Option(help="tiny, or full: the real sizes, for a GPU.")] = "tiny",
    seed: Annotated[int, typer.Option(min=-MOST_SEED, max=MOST_SEED, help="Of the random weights.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16.")] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds something.")] = False,
) -> None:
    """Write a DeepSeek-OCR-2 checkpoint of the true classes with random weights."""
    from dsprof.workloads.tiny import save

    _check_model(size, dtype)
    say(f"Checkpoint: {save(folder, size, seed, dtype, force)}")


def _check_model(size: str, dtype: str) -> None:
    """A model that is not known, or a type of weights, is a usage error."""
    from dsprof.model.weights import ITEM_BYTES
    from dsprof.workloads.tiny import SIZES

    if size not in SIZES or dtype not in ITEM_BYTES:
        raise typer.BadParameter(f"the size is one of {', '.join(SIZES)}, the type one of {', '.join(ITEM_BYTES)}.")


@workloads.command(epilog="Example: dsprof workloads config full --image page.png > run.model.json")
def config(
    size: Annotated[str, typer.Argument(metavar="tiny|full", help="Which of the models that dsprof builds.")],
    image: Annotated[list[Path] | None, typer.Option(help="An image of each request; repeated: a batch.")] = None,
    dtype: Annotated[str, typer.Option(help="Type of the weights.")] = "bfloat16",
) -> None:
    """Print what --model-config reads: a model's configuration, and what its requests' images become."""
    import json

    from dsprof.show.safe import for_json
    from dsprof.workloads.describe import describe

    _check_model(size, dtype)
    typer.echo(for_json(json.dumps(describe(size, dtype, image or []), ensure_ascii=False)))


@workloads.command(epilog="Example: dsprof workloads page page.png")
def page(
    path: Annotated[Path, typer.Argument(help="The picture to write.")],
    force: Force = False,
) -> None:
    """Draw a page of text to read."""
    from dsprof.workloads.page import draw

    say(f"Page: {draw(path, force=force)}")
