"""Licenses are recognized by their text; a folder's own license goes before its parent's."""

import pytest

from minillama.corpus.archive import read_members
from minillama.corpus.github import PATTERNS, license_at, license_of, project_licenses
from minillama.corpus.sources import DOWNLOADS, load_sources

BSD = b"Redistribution and use in source and binary\nforms, with or without changes, are permitted"
MIT = b"Permission is hereby granted, free of charge, to any person, to deal without restriction"
APACHE = b"Apache License\n Version 2.0, January 2004 ... 3. Grant of Patent License."
GPL = b"GNU GENERAL PUBLIC LICENSE\nVersion 3 ... TERMS AND CONDITIONS"


@pytest.mark.parametrize(
    "text, name",
    [(BSD, "BSD"), (MIT, "MIT"), (APACHE, "Apache"), (GPL, "GPL"), (b"All rights reserved.", None)],
)
def test_a_license_is_known_by_its_words(text, name):
    assert license_of(text.decode()) == name


def test_the_gpl_is_not_taken_for_mit_because_it_quotes_it():
    assert license_of((MIT + GPL).decode()) == "GPL"


def test_the_nearest_license_decides():
    files = {
        "p/LICENSE": BSD, "p/a.py": b"", "p/vendor/COPYING": GPL, "p/vendor/b/c.py": b"",
        "p/other/LICENSE.txt": MIT, "p/other/LICENSE-extra": b"All rights reserved.",
        "p/other/d.py": b"", "q/e.py": b"", "p/licensed.py": b"",
        "p/two/LICENSE-MIT": MIT, "p/two/LICENSE-GPL": GPL, "p/two/f.py": b"",
    }  # fmt: skip
    known = project_licenses(files)
    assert license_at(known, "p/a.py") == license_at(known, "p/licensed.py") == "BSD"
    assert license_at(known, "p/vendor/b/c.py") == "GPL"
    assert license_at(known, "p/other/d.py") == "MIT"  # LICENSE.txt is its own
    assert license_at(known, "p/two/f.py") == "GPL"  # none is its own: all hold
    assert license_at(known, "q/e.py") == license_at(known, "e.py") == "none"
    assert set(project_licenses(files)) == {
        "p/LICENSE", "p/vendor/COPYING", "p/other/LICENSE.txt", "p/other/LICENSE-extra",
        "p/two/LICENSE-MIT", "p/two/LICENSE-GPL",
    }  # fmt: skip


@pytest.mark.parametrize("name, license", [("django", "BSD"), ("sympy", "BSD")])
def test_real_projects(name, license):
    source = next(s for s in load_sources() if s.name == name)
    members = ["*/LICENSE*", "*/COPYING*", "*/LICENSE*"]
    files = dict(read_members(source.find(DOWNLOADS), members))
    at_top = {p: n for p, n in project_licenses(files).items() if p.count("/") == 1}
    assert license in at_top.values()


def test_the_standard_library_is_not_permitted():
    source = next(s for s in load_sources() if s.format == "installed")
    known = project_licenses(dict(read_members(source.find(DOWNLOADS), list(PATTERNS))))
    assert license_at(known, "json/decoder.py") in ("PSF", "none", "unknown")
    psf = "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2\n1. This LICENSE AGREEMENT is between"
    assert license_of(psf) == "PSF"
