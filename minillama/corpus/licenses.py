"""Which license a project is under, read from its license files.

Section 2.1: "we only kept projects that are distributed under the Apache, BSD and MIT licenses".
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from minillama.corpus.archive import matches

PERMITTED = ("Apache", "BSD", "MIT")
LICENSE_FILE = re.compile(r"^(un)?licen[cs]es?([-_.].*)?$|^copying([-_.].*)?$", re.I)
MAIN_FILE = re.compile(r"^(licen[cs]e|copying)(\.(txt|md|rst))?$", re.I)
"""A project's own license; LICENSE.python beside it, say, tells of parts taken from elsewhere."""
PATTERNS = ("*[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]*", "*[Cc][Oo][Pp][Yy][Ii][Nn][Gg]*")
"""Shell patterns that all of them fit, and some other files."""
SIGNS: dict[str, tuple[str, ...]] = {
    # Words that the text of a license must have and that its kin has not, most special first.
    "PSF": ("python software foundation license version 2",),
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


def license_of(text: str) -> str | None:
    """The license whose text this is, by name; None for what is none of those known."""
    plain = re.sub(r"\s+", " ", text).lower()
    for name, signs in SIGNS.items():
        if all(sign in plain for sign in signs):
            return name
    return None


def project_licenses(files: Mapping[str, bytes], root: str = "*") -> dict[str, str | None]:
    """The license of every license file of a source tree, by its path.

    Args:
        files: path to content.
        root: a shell pattern for the project's own folder.
    """
    return {
        path: license_of(content.decode("utf-8", errors="replace"))
        for path, content in files.items()
        if LICENSE_FILE.match(PurePosixPath(path).name) and matches(path, [root])
    }


def permits(files: Mapping[str, bytes], path: str) -> bool:
    """Whether a file of a tree, given with its content, is under a permitted license."""
    return license_at(project_licenses(files), path) in PERMITTED


def license_at(known: Mapping[str, str | None], path: str) -> str:
    """The license of a file, by the license files in the nearest folder above it that has any.

    A vendored folder with a license of its own is judged by that. Of several license files that
    are all the project's own, the first that is not permitted counts.

    Args:
        known: what ``project_licenses`` gave.
        path: the file.

    Returns:
        The license's name, ``unknown`` or ``none``.
    """
    folder = PurePosixPath(path).parent
    while True:
        near = {at: name for at, name in known.items() if PurePosixPath(at).parent == folder}
        main = {at: name for at, name in near.items() if MAIN_FILE.match(PurePosixPath(at).name)}
        names = [name or "unknown" for name in (main or near).values()]
        if names:
            return next((name for name in names if name not in PERMITTED), names[0])
        if folder == folder.parent:
            return "none"
        folder = folder.parent
