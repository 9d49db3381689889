"""The command `trainer`; as a module too, for torchrun needs one."""

from pipeline.machine import set_up
from trainer.cli import main


def run() -> None:
    set_up()
    main(prog_name="trainer")


if __name__ == "__main__":
    run()
