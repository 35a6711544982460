"""The command `mt schema`."""

import json

from mt.cli.options import QuietOption, VerboseOption
from mt.cli.streams import write_lines


def schema(quiet: QuietOption = False, verbose: VerboseOption = False) -> None:
    """Print the JSON schema of configs, with which editors complete and check keys."""
    from mt.config.json_schema import config_json_schema

    write_lines([json.dumps(config_json_schema(), ensure_ascii=False, indent=2)])
