"""python -m mt: the same as the command `mt`, for systems where another program has that name."""

from mt.cli.process import run

if __name__ == "__main__":
    run()
