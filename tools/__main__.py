"""The command `tools`."""

from pipeline.machine import set_up


def run() -> None:
    set_up()
    from tools.cli import main  # not before: the process may have begun anew

    main(prog_name="tools")


if __name__ == "__main__":
    run()
