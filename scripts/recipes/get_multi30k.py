#!/usr/bin/env python3
"""Download Multi30k, English and German (task 1, raw text), and check it byte for byte.

    scripts/recipes/get_multi30k.py [--from DIR|URL] [--out DIR]

Multi30k (Elliott et al., 2016) may be used for non-commercial research and education, so this
repository downloads it instead of containing it. Needs nothing but Python's standard library.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The checksums alone decide whether a text is right. So a branch may serve as the second origin, in
# case GitHub does not resolve the short name of the commit.
ORIGINS = tuple(
    f"https://github.com/multi30k/dataset/raw/{ref}/data/task1/raw" for ref in ("a3d2e0d", "master")
)

SHA256 = {  # of the unpacked text
    "train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "test_2016_flickr.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    "test_2016_flickr.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
}


class FetchError(Exception):
    """A file could not be obtained. The message is one line: what, from where, and why."""


def is_right(name: str, text: bytes) -> bool:
    """Return whether a text has the checksum of the file of this name."""
    return hashlib.sha256(text).hexdigest() == SHA256[name]


def read(name: str, origin: str) -> bytes:
    """Return the unpacked text of a file.

    Args:
        origin: a URL, below which the file is compressed; or a folder, where it may be compressed
        or not.

    Raises FetchError.
    """
    plain = Path(origin, name)
    packed = f"{origin}/{name}.gz"
    try:
        if "://" in origin:
            with urllib.request.urlopen(packed, timeout=30) as response:
                return gzip.decompress(response.read())
        if plain.exists():
            return plain.read_bytes()
        return gzip.decompress(Path(packed).read_bytes())
    except FileNotFoundError as error:
        raise FetchError(f"{plain}: no such file, with or without .gz") from error
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"{packed}: {error}") from error
    except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise FetchError(f"{packed}: {reason}") from error


def fetch(name: str, origins: tuple[str, ...]) -> bytes:
    """Return the right text from the first origin that has it.

    If none has it, raise the error of the first origin.
    """
    errors = []
    for origin in origins:
        try:
            text = read(name, origin)
        except FetchError as error:
            errors.append(error)
            continue
        if is_right(name, text):
            return text
        errors.append(
            FetchError(f"{origin}: {name} is not the expected file (its SHA-256 differs)")
        )
    raise errors[0]


def write(path: Path, text: bytes) -> None:
    """Write a file under another name and rename it, so that a file that exists is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(text)
    os.replace(partial, path)


def fetch_all(out: Path, origins: tuple[str, ...]) -> None:
    """Write all files to the folder `out`, except those that are there and right."""
    for name in SHA256:
        path = out / name
        if path.is_file() and is_right(name, path.read_bytes()):
            print(f"{path}: already there")
        else:
            write(path, fetch(name, origins))
            print(f"{path}: written")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--from", dest="origin", metavar="DIR|URL", help="a folder with the files, or a mirror"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", default=ROOT / "data" / "multi30k")
    options = parser.parse_args(arguments)

    origins = ORIGINS
    hint = " (if you already have the files, name their folder with --from)"
    if options.origin is not None:
        origins = (options.origin,)
        hint = ""
    try:
        fetch_all(options.out, origins)
    except (FetchError, OSError) as error:
        print(f"get_multi30k: {error}{hint}", file=sys.stderr)
        return 1
    print(
        "Multi30k is for non-commercial research and education. "
        "Next: mt train configs/multi30k-en-de.yaml"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
