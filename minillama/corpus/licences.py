"""Which licence a project is under, read from its licence files.

Section 2.1: "we only kept projects that are distributed under the Apache, BSD and MIT licenses".
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from minillama.corpus.archive import matches

PERMITTED = ("Apache", "BSD", "MIT")
LICENCE_FILE = re.compile(r"^(un)?licen[cs]es?([-_.].*)?$|^copying([-_.].*)?$", re.I)
SIGNS: dict[str, tuple[str, ...]] = {
    # Words that the text of a licence must have and that its kin has not, most special first.
    "AGPL": ("gnu affero general public license", "version 3, 19 november 2007"),
    "LGPL": ("gnu lesser general public license", "terms and conditions"),
    "GPL": ("gnu general public license", "terms and conditions"),
    "MPL": ("mozilla public license", "covered software"),
    "Apache": ("apache license", "version 2.0", "grant of patent license"),
    "BSD": ("redistribution and use in source and binary forms", "are permitted"),
    "MIT": ("permission is hereby granted, free of charge", "without restriction"),
}
CLASSIFIERS = {
    "Apache Software License": "Apache", "BSD License": "BSD", "MIT License": "MIT",
}  # fmt: skip


def licence_of(text: str) -> str | None:
    """The licence whose text this is, by name; None for what is none of those known."""
    plain = re.sub(r"\s+", " ", text).lower()
    for name, signs in SIGNS.items():
        if all(sign in plain for sign in signs):
            return name
    return None


def project_licences(files: Mapping[str, bytes], root: str = "*") -> dict[str, str | None]:
    """The licence of every licence file of a source tree, by its path.

    Args:
        files: path to content.
        root: a shell pattern for the project's own folder.
    """
    return {
        path: licence_of(content.decode("utf-8", errors="replace"))
        for path, content in files.items()
        if LICENCE_FILE.match(PurePosixPath(path).name) and matches(path, [root])
    }


def permits(files: Mapping[str, bytes], path: str) -> bool:
    """Whether a file of a tree is under a permitted licence.

    The licence files in the nearest folder above it decide; all of them must be permitted, so that
    a vendored folder with a licence of its own is judged by that.
    """
    known = project_licences(files)
    folder = PurePosixPath(path).parent
    while True:
        near = [name for at, name in known.items() if PurePosixPath(at).parent == folder]
        if near:
            return all(name in PERMITTED for name in near)
        if folder == folder.parent:
            return False
        folder = folder.parent
