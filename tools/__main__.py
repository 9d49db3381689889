from tools.cli import main

main(prog_name="tools")
