"""The command `tools`."""

from pipeline.machine import set_up
from tools.cli import main


def run() -> None:
    set_up()
    main(prog_name="tools")


if __name__ == "__main__":
    run()
