"""Licences are recognised by their text; a folder's own licence goes before its parent's."""

import pytest

from minillama.corpus.archive import read_members
from minillama.corpus.licences import PATTERNS, licence_at, licence_of, permits, project_licences
from minillama.corpus.sources import DOWNLOADS, load_sources

BSD = b"Redistribution and use in source and binary\nforms, with or without changes, are permitted"
MIT = b"Permission is hereby granted, free of charge, to any person, to deal without restriction"
APACHE = b"Apache License\n Version 2.0, January 2004 ... 3. Grant of Patent License."
GPL = b"GNU GENERAL PUBLIC LICENSE\nVersion 3 ... TERMS AND CONDITIONS"


@pytest.mark.parametrize(
    "text, name",
    [(BSD, "BSD"), (MIT, "MIT"), (APACHE, "Apache"), (GPL, "GPL"), (b"All rights reserved.", None)],
)
def test_a_licence_is_known_by_its_words(text, name):
    assert licence_of(text.decode()) == name


def test_the_gpl_is_not_taken_for_mit_because_it_quotes_it():
    assert licence_of((MIT + GPL).decode()) == "GPL"


def test_the_nearest_licence_decides():
    files = {
        "p/LICENSE": BSD, "p/a.py": b"", "p/vendor/COPYING": GPL, "p/vendor/b/c.py": b"",
        "p/other/LICENSE.txt": MIT, "p/other/LICENSE-extra": b"All rights reserved.",
        "p/other/d.py": b"", "q/e.py": b"", "p/licensed.py": b"",
        "p/two/LICENSE-MIT": MIT, "p/two/LICENSE-GPL": GPL, "p/two/f.py": b"",
    }  # fmt: skip
    assert permits(files, "p/a.py") and permits(files, "p/licensed.py")
    assert not permits(files, "p/vendor/b/c.py")
    assert permits(files, "p/other/d.py")  # LICENSE.txt is its own; the other tells of parts
    assert not permits(files, "p/two/f.py")  # none is its own: all hold
    assert not permits(files, "q/e.py")  # none at all
    known = project_licences(files)
    assert licence_at(known, "p/two/f.py") == "GPL" and licence_at(known, "q/e.py") == "none"
    assert set(project_licences(files)) == {
        "p/LICENSE", "p/vendor/COPYING", "p/other/LICENSE.txt", "p/other/LICENSE-extra",
        "p/two/LICENSE-MIT", "p/two/LICENSE-GPL",
    }  # fmt: skip


@pytest.mark.parametrize("name, licence", [("django", "BSD"), ("sympy", "BSD")])
def test_real_projects(name, licence):
    source = next(s for s in load_sources() if s.name == name)
    members = ["*/LICENSE*", "*/COPYING*", "*/LICENCE*"]
    files = dict(read_members(source.find(DOWNLOADS), members))
    at_top = {p: n for p, n in project_licences(files).items() if p.count("/") == 1}
    assert licence in at_top.values()


def test_the_standard_library_is_not_permitted():
    source = next(s for s in load_sources() if s.format == "installed")
    known = project_licences(dict(read_members(source.find(DOWNLOADS), list(PATTERNS))))
    assert licence_at(known, "json/decoder.py") in ("PSF", "none", "unknown")
    psf = "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2\n1. This LICENSE AGREEMENT is between"
    assert licence_of(psf) == "PSF"
