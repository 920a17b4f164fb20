"""``python -m joulewise``: the command line."""

from joulewise.cli import main

if __name__ == "__main__":
    main()
