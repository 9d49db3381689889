"""The command `trainer`; as a module too, for torchrun needs one."""

from pipeline.machine import set_up


def run() -> None:
    set_up()
    from trainer.cli import main  # not before: the process may have begun anew

    main(prog_name="trainer")


if __name__ == "__main__":
    run()
