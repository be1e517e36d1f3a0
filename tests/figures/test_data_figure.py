"""The waterfall shows every byte of the manifest once, and Table 1 as it is printed."""

import csv
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.text import Text
from tiny import make_corpus, prose

from minillama.corpus.mixture import mixture
from minillama.corpus.statistics import table1
from minillama.corpus.token_files import SPLITS
from minillama.figures.data import (
    KEPT,
    MOST,
    OTHER,
    data_waterfall,
    draw_corpus,
    megabytes,
    spread,
)
from minillama.figures.provenance import describe_run
from minillama.figures.runs import load_runs
from minillama.figures.style import RC
from minillama.files import sha256
from minillama.paper import TABLE1


def made_up(sizes, packed=None):
    """A manifest of slices given as bytes after each of their steps; ``packed``: bytes on disk."""
    slices = {}
    for name, after in sizes.items():
        before = [(packed or {}).get(name, after[0]), *after[:-1]]
        steps = [
            {"step": f"step {i}", "documents_in": 9, "documents_out": 9, "bytes_in": a,
             "bytes_out": b, "dropped": {"dull": 2}, "removed": {"lines": 3}, "facts": {}}
            for i, (a, b) in enumerate(zip(before, after, strict=True))
        ]  # fmt: skip
        slices[name] = {"waterfall": steps, "train": {"tokens": after[-1] // 3 + 1}}
    kept = {name for name in slices if sizes[name][-1]}
    return {
        "weights": mixture(kept),
        "slices": {name: told for name, told in slices.items() if name in kept},
        "left_out": {name: told for name, told in slices.items() if name not in kept},
    }


def drawn_bars(figure):
    """Each bar as (row from above, left, width, color)."""
    return [(round(bar.get_y()), bar.get_x(), bar.get_width(), to_hex(bar.get_facecolor()))
            for bar in figure.axes[0].patches]  # fmt: skip


def words(figure):
    """All that is written."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.fixture(scope="module")
def manifest(tiny_corpus):
    return json.loads((tiny_corpus.folder / "manifest.json").read_text())


def test_the_rows_follow_the_bytes_of_the_manifest(manifest):
    _, rows = data_waterfall(manifest, 10_000)
    for name, told in manifest["slices"].items():
        mine = [row for row in rows if row["slice"] == name and row["step"] != "Table 1"]
        assert [row["step"] for row in mine] == [step["step"] for step in told["waterfall"]]
        largest = told["bytes_in"]  # these slices only shrink
        for row, step in zip(mine, told["waterfall"], strict=True):
            assert row["share_left"] == pytest.approx(step["bytes_out"] / largest, abs=1e-12)
            assert all(str(n) in row["why"] for n in step["dropped"].values())
        kept = sum(told[split]["bytes"] for split in SPLITS)
        assert mine[-1]["share_left"] == pytest.approx(kept / largest, abs=1e-12)


def test_the_table_is_the_one_that_is_printed(manifest):
    _, rows = data_waterfall(manifest, 10_000)
    table = {row["slice"]: row for row in rows if row["step"] == "Table 1"}
    assert list(table) == list(TABLE1)
    printed = {line.split()[0]: line for line in table1(manifest, 10_000).splitlines()[2:]}
    for name, row in table.items():
        assert row["paper_share"] == TABLE1[name]["share"]
        assert row["paper_epochs"] == TABLE1[name]["epochs"]
        if name in manifest["weights"]:
            share, epochs = printed[name].split()[-6:-4]
            assert (f"{row['share']:.1%}", f"{row['epochs']:.2f}") == (share, epochs)
        else:
            assert row["share"] is row["epochs"] is None and "absent" in printed[name]


def test_a_bar_holds_every_byte_once():
    sizes = {"commoncrawl": [1000, 400, 400, 300], "books": [800, 790, 10, 9]}
    figure, _ = data_waterfall(made_up(sizes, packed={"commoncrawl": 2000}), 1000)
    bars = drawn_bars(figure)
    for number, total in ((0, 2000), (4, 800)):
        left = 1.0
        mine = [bar for bar in bars if bar[0] == number]
        for _, at, share, _ in sorted(mine, key=lambda bar: -bar[1]):
            assert at + share == pytest.approx(left)  # one beside the other, none over another
            left = at
        assert left == 0 and mine[0][3] == KEPT.lower()
        assert mine[0][2] == pytest.approx(sizes[list(TABLE1)[number]][-1] / total)
        [most] = [bar for bar in mine if bar[3] == MOST.lower()]
        assert most[2] == max(bar[2] for bar in mine[1:])
        assert {bar[3] for bar in mine} <= {KEPT.lower(), MOST.lower(), OTHER.lower()}


def test_packed_files_begin_at_what_they_unpack_to():
    figure, rows = data_waterfall(made_up({"wikipedia": [2_800_000, 2_600_000]},
                                          packed={"wikipedia": 1_800_000}), 1000)  # fmt: skip
    assert "1.8 → 2.8 → 2.6 MB" in words(figure)
    assert [row["share_left"] for row in rows[:2]] == pytest.approx([1, 26 / 28])
    assert rows[0]["share_taken"] == 0


def test_absent_slices_are_named_as_absent():
    sizes = {"c4": [5_000_000, 1_000_000], "github": [38_000_000, 7_000_000, 0]}
    figure, rows = data_waterfall(made_up(sizes), 1000)
    told = words(figure)
    assert all(row["label"] in told for row in TABLE1.values())
    assert told.count("absent") == told.count("no package has it") == 5
    assert "38.0 MB, absent" in told and "5.0 → 1.0 MB" in told
    assert not [bar for bar in drawn_bars(figure) if bar[0] == 2 and bar[3] == KEPT.lower()
                and bar[2] > 0]  # fmt: skip
    assert rows[-7 + 2]["slice"] == "github" and rows[-7 + 2]["share"] is None


def test_texts_of_the_users_own_are_a_further_row(tmp_path):
    corpus = make_corpus(tmp_path / "data", built=False, documents=8)
    corpus.add({f"{i}.txt": prose(900 + i) for i in range(4)})
    corpus.build(own_share=0.25)
    manifest = json.loads((corpus.folder / "manifest.json").read_text())
    figure, rows = data_waterfall(manifest, 10_000)
    assert rows[-1]["slice"] == "mytexts" and rows[-1]["share"] == pytest.approx(0.25)
    assert rows[-1]["paper_share"] is rows[-1]["paper_epochs"] is None
    assert "mytexts" in words(figure) and max(bar[0] for bar in drawn_bars(figure)) == 7


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4).map(sorted), st.floats(0.01, 0.22))
def test_names_above_a_bar_keep_apart_and_on_the_page(centers, wide):
    lefts = spread(centers, [wide] * len(centers), 0.03) - wide / 2
    assert lefts[0] >= -1e-9 and lefts[-1] + wide <= 1 + 1e-9
    assert all(b - a >= wide + 0.03 - 1e-9 for a, b in zip(lefts, lefts[1:], strict=False))
    if len(centers) == 1 and wide / 2 <= centers[0] <= 1 - wide / 2:
        assert lefts[0] + wide / 2 == pytest.approx(centers[0])


def test_nothing_is_small_or_leaves_the_page():
    sizes = {name: [38_000_000, 30_000_000, 25_000_000, 24_000_000, 9_000_000] for name in TABLE1}
    with matplotlib.rc_context(RC):
        figure, _ = data_waterfall(made_up(sizes, packed={"books": 11_000_000}), 10**8)
        figure.draw_without_rendering()
        ticks = [label for axes in figure.axes for label in axes.get_xticklabels()]
        for text in figure.findobj(Text):
            if text.get_text() and text not in ticks:
                assert text.get_fontsize() >= 9
                box = text.get_window_extent()
                assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, text.get_text()
                assert box.y0 >= 0 and box.y1 <= figure.bbox.y1, text.get_text()


@pytest.mark.parametrize(
    ("size", "told"),
    [(38_817_376, "38.8"), (951_000, "1.0"), (244_000, "0.24"), (9_600, "0.01"), (4_000, "0.004")],
)
def test_sizes_have_the_digits_that_one_can_read(size, told):
    assert megabytes(size) == told


def test_four_files_and_the_corpus_that_they_are_of(trained, tiny_corpus, tmp_path):
    run = load_runs(trained, "nano")[-1]
    stem = tmp_path / "data_waterfall"
    kinds = ("png", "svg", "csv", "json")
    assert draw_corpus(run, tmp_path, ["minillama", "figures"]) == [
        f"wrote {stem}.{kind}" for kind in kinds
    ]
    assert {path.name for path in tmp_path.iterdir()} == {f"data_waterfall.{k}" for k in kinds}
    assert imread(f"{stem}.png").shape[1] >= 6.5 * 150
    assert ElementTree.parse(f"{stem}.svg").getroot().tag.endswith("svg")
    origin = json.loads(stem.with_suffix(".json").read_text())
    assert origin["corpus"]["manifest_sha256"] == sha256(tiny_corpus.folder / "manifest.json")
    trained_on = describe_run(run)["data_sha256"]
    assert origin["corpus"]["data_sha256"] == trained_on and "runs" not in origin
    with open(f"{stem}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    manifest = json.loads((tiny_corpus.folder / "manifest.json").read_text())
    assert rows == [
        {key: "" if value is None else str(value) for key, value in row.items()}
        for row in data_waterfall(manifest, run.config.tokens)[1]
    ]


def on(run, corpus):
    """The same run, as if it had been trained on another corpus."""
    return replace(run, config=SimpleNamespace(**vars(run.config) | {"corpus": str(corpus)}))


def test_without_the_corpus_one_line_says_so(trained, tmp_path):
    run = on(load_runs(trained, "nano")[-1], tmp_path / "gone")
    [line] = draw_corpus(run, tmp_path, ["minillama", "figures"])
    assert line.startswith(f"data_waterfall is not drawn: {tmp_path / 'gone'} holds no corpus")
    assert "minillama data build --name gone" in line and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["older", "cut short"])
def test_a_damaged_corpus_is_one_line_too(trained, tiny_corpus, tmp_path, change):
    path = shutil.copytree(tiny_corpus.folder, tmp_path / "corpus") / "manifest.json"
    manifest = json.loads(path.read_text())
    for told in manifest["slices"].values():
        del told["waterfall"]  # as an older version stored it
    path.write_text(json.dumps(manifest) if change == "older" else path.read_text()[:100])
    run = on(load_runs(trained, "nano")[-1], path.parent)
    [line] = draw_corpus(run, tmp_path / "figures", ["minillama", "figures"])
    assert line.startswith("data_waterfall is not drawn: ") and "manifest" in line
    assert not (tmp_path / "figures").exists()
