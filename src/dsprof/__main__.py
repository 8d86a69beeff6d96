"""``python -m dsprof``."""

from dsprof.cli import main

if __name__ == "__main__":
    main()
