"""Run `python -m service` as `weighin`."""

from service.cli import main

if __name__ == "__main__":
    main()
