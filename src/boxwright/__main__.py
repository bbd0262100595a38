"""`python -m boxwright` is the command `boxwright`."""

from boxwright.cli.main import run

if __name__ == "__main__":
    run()
