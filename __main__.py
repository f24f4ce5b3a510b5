"""``python -m ingot`` is the ``ingot`` command."""

from .cli import main

if __name__ == "__main__":
    main()
