"""python -m mt: the same as the command `mt`, where a tape tool of that name stands in its way."""

from mt.cli.process import run

if __name__ == "__main__":
    run()
