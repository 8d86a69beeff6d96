"""``dsprof`` and ``python -m dsprof``: the command line in a process of its own."""

import gc

from dsprof.cli import main as command_line

#: Objects that are made until Python looks for cycles among them: it would look 200 times in a start, for a tenth of
#: its time, and a whole analysis makes few more. Arrays are none of them; what they take is not counted here.
_OBJECTS_AT_ONCE = 250_000


def main() -> None:
    """Run the command line, and leave without looking through all that is there once more."""
    gc.set_threshold(_OBJECTS_AT_ONCE)
    try:
        command_line()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
