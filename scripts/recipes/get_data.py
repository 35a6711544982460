#!/usr/bin/env python3
"""Download the text of a recipe, and check it byte for byte.

    scripts/recipes/get_data.py NAME [--from DIR|URL ...] [--out DIR]

The text is not in this repository, because its licenses differ. --from names a folder that has the
files already. Needs nothing but Python's standard library.
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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class DataSet:
    """Files of text, where they come from, and what is known about them."""

    sha256: Mapping[str, str]  # checksum of each file, unpacked, by the file's name
    terms: str  # of use
    # URLs below which the files are. The checksums alone decide whether a text is right, so a
    # branch may serve as the second origin, in case the host does not resolve the commit's name.
    origins: tuple[str, ...] = ()
    is_packed: bool = False  # at the origins, each file is compressed: NAME.gz
    # Where to download it by hand, if there are no origins. The text grows there, so a file with
    # another checksum is accepted.
    page: str = ""


def github_origins(repository: str, commit: str, folder: str = "") -> tuple[str, ...]:
    """Return the URLs of a folder of a repository: at a commit, and on the branch `master`."""
    return tuple(f"https://github.com/{repository}/raw/{ref}{folder}" for ref in (commit, "master"))


DATA_SETS = {
    # Elliott et al. 2016, "Multi30K: Multilingual English-German Image Descriptions".
    "multi30k": DataSet(
        origins=github_origins("multi30k/dataset", "a3d2e0d", "/data/task1/raw"),
        is_packed=True,
        terms="Multi30k is for non-commercial research and education.",
        sha256={
            "train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
            "train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
            "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
            "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
            "test_2016_flickr.en": (
                "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182"
            ),
            "test_2016_flickr.de": (
                "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16"
            ),
        },
    ),
    # The same text, lowercased, normalized and tokenized by its authors.
    "multi30k-tok": DataSet(
        origins=github_origins("multi30k/dataset", "a3d2e0d", "/data/task1/tok"),
        terms="Multi30k is for non-commercial research and education.",
        sha256={
            "train.lc.norm.tok.en": (
                "08925f8e0572bcd5a006702fc5fe20e2d77c6917d4eebd576fc20de6693c2119"
            ),
            "train.lc.norm.tok.de": (
                "cb5a23529b65ec2061f1dc446192a9c37382b63cc75f81a0be59d34894b3a505"
            ),
            "val.lc.norm.tok.en": (
                "46573ce391ae227f1c72f873392436a20ef18e0a6d518098cfbd70b77c8572ec"
            ),
            "val.lc.norm.tok.de": (
                "97232bd273eceb7207f689527386a97e4be2616b18ada47576bdaf96c8ae1f00"
            ),
            "test_2016_flickr.lc.norm.tok.en": (
                "5b7f32627cf99eced828311b955dae9800bb52bc8b91cf8b6526829e605b29d2"
            ),
            "test_2016_flickr.lc.norm.tok.de": (
                "c6a33d39d48f9f510de147651316cd9d918e09ad0219df734a2f16b6baccacc4"
            ),
        },
    ),
    # Sentences of 4 to 16 words from the Tanaka corpus, tokenized.
    "small-parallel-enja": DataSet(
        origins=github_origins("odashi/small_parallel_enja", "312408a"),
        terms="The sentences are from the Tanaka corpus, which is now part of tatoeba.org.",
        sha256={
            "train.en": "148b05dcd28638fe20ee84f2b1127001c80982be352007dda241fb759adadc76",
            "train.ja": "fc81a1434349ec98a449d7ae9cd2530057f689637684ecfed3501ea6a8a07ecc",
            "dev.en": "04a2673449770657fd5e3b963cb856be3130923212b6db8ac7eaeef18f06c041",
            "dev.ja": "cd534f56b8639dc130f86a365e5ec0aa70042000bdd740a622fbbf8b6be4acca",
            "test.en": "45edb380749ec2b49cca7618fc5a7595fc9f791180672ba466b90c873a4aa8bf",
            "test.ja": "d37dc460a81b064e4106c8913eb11fa300da05cf3f58a7a5bbfec7e20947ddef",
        },
    ),
    # A table of English, German and more columns. The checksum belongs to the version of
    # 2018-05-13, with only the first two columns. Its lines are in the order of an unpublished
    # split.
    "tatoeba-deu": DataSet(
        page="https://www.manythings.org/anki/deu-eng.zip",
        terms="The sentences are from tatoeba.org, CC BY 2.0 FR.",
        sha256={"deu.txt": "0479c26a239bcf179fdfca5345b11a3a316f46801b7b1af887847fd5ee0bc7ff"},
    ),
    "tatoeba-swe": DataSet(
        page="https://www.manythings.org/anki/swe-eng.zip",
        terms="The sentences are from tatoeba.org, CC BY 2.0 FR.",
        sha256={"swe.txt": "1906c9ada320746df5adf5b98fe4077cd3c06cf8ff629813f2c194592dba2cc9"},
    ),
}


class FetchError(Exception):
    """A file could not be obtained. The message is one line: what, from where, and why."""


def is_right(text: bytes, sha256: str) -> bool:
    """Return whether a text has this checksum."""
    return hashlib.sha256(text).hexdigest() == sha256


def read(name: str, origin: str, *, is_packed: bool) -> bytes:
    """Return the unpacked text of a file.

    Args:
        origin: a URL, or a folder, where the file may be compressed or not.
        is_packed: whether the file is compressed below a URL.

    Raises FetchError.
    """
    plain = Path(origin, name)
    url = f"{origin}/{name}{'.gz' if is_packed else ''}"
    place = url
    try:
        if "://" in origin:
            with urllib.request.urlopen(url, timeout=30) as response:
                content = response.read()
            return gzip.decompress(content) if is_packed else content
        if plain.exists():
            place = str(plain)
            return plain.read_bytes()
        place = f"{plain}.gz"
        return gzip.decompress(Path(place).read_bytes())
    except FileNotFoundError as error:
        raise FetchError(f"{plain}: no such file, with or without .gz") from error
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"{place}: {error}") from error
    except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise FetchError(f"{place}: {reason}") from error


def fetch(name: str, data_set: DataSet, origins: tuple[str, ...]) -> bytes:
    """Return the right text of a file from the first origin that has it.

    If none has it, raise the error of the first origin.
    """
    errors = []
    for origin in origins:
        try:
            text = read(name, origin, is_packed=data_set.is_packed)
        except FetchError as error:
            errors.append(error)
            continue
        if is_right(text, data_set.sha256[name]):
            return text
        if data_set.page:
            print(f"{name}: another version than that of the recipe's scores", file=sys.stderr)
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


def is_there(path: Path, data_set: DataSet) -> bool:
    """Return whether the folder has the file already, in any version if the text grows."""
    if not path.is_file():
        return False
    return bool(data_set.page) or is_right(path.read_bytes(), data_set.sha256[path.name])


def fetch_all(out: Path, data_set: DataSet, origins: tuple[str, ...]) -> None:
    """Write all files to the folder `out`, except those that are there and right."""
    for name in data_set.sha256:
        path = out / name
        if is_there(path, data_set):
            print(f"{path}: already there")
        elif not origins:
            raise FetchError(
                f"{name}: download {data_set.page}, unpack it, and name its folder with --from"
            )
        else:
            write(path, fetch(name, data_set, origins))
            print(f"{path}: written")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=DATA_SETS)
    parser.add_argument(
        "--from",
        dest="origins",
        action="append",
        metavar="DIR|URL",
        help="a folder with the files, or a mirror; may be given again",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write them  [default: data/NAME]"
    )
    options = parser.parse_args(arguments)

    data_set = DATA_SETS[options.name]
    origins = data_set.origins
    hint = ""
    if options.origins:
        origins = tuple(options.origins)
    elif origins:
        hint = " (if you already have the files, name their folder with --from)"
    out = ROOT / "data" / options.name if options.out is None else options.out
    try:
        fetch_all(out, data_set, origins)
    except (FetchError, OSError) as error:
        print(f"get_data: {error}{hint}", file=sys.stderr)
        return 1
    print(data_set.terms)
    return 0


if __name__ == "__main__":
    sys.exit(main())
