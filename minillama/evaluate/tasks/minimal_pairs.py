"""Minimal pairs of our own: two sentences that differ in one point of grammar; one is English.

In the spirit of BLiMP (Warstadt et al., 2020), but not BLiMP: the sentences are made here, from a
few templates and common words. A sentence is scored by its whole log-probability, and the right one
should have more. Grammar is learned long before facts, so here the accuracy of a small model moves.

No word gives the answer away. The templates of a phenomenon come in twos, in which the words that
differ change places (this book, *this books; these books, *these book), or both sentences have the
same words in another order. Who knows how frequent words are and nothing else gets half right. An
n-gram model sees what stands close by; some templates put a misleading word there instead.
"""

import re
from random import Random

from minillama.evaluate.tasks.task import Question, Task
from minillama.evaluate.tasks.wheel import Library

PAIRS = 100
"""Of each phenomenon."""
PEOPLE = """man/men, woman/women, boy/boys, girl/girls, king/kings, queen/queens, friend/friends,
    father/fathers, mother/mothers, brother/brothers, sister/sisters, son/sons, lady/ladies,
    teacher/teachers, doctor/doctors, soldier/soldiers, student/students, child/children"""
THINGS = """book/books, house/houses, ship/ships, stone/stones, letter/letters, door/doors,
    tree/trees, horse/horses, city/cities, picture/pictures, road/roads, table/tables, dog/dogs,
    river/rivers, box/boxes, wall/walls, window/windows, bird/birds"""
TABLES = {
    "person/people": PEOPLE,
    "other/others": PEOPLE,
    "thing/things": THINGS,
    "object/objects": THINGS,
    "walks/walk": """walks/walk, runs/run, goes/go, comes/come, looks/look, turns/turn, moves/move,
        returns/return, stands/stand, works/work""",
    "there": "there, here, alone, again, every day, at night, in the garden, in the city",
    "hero/heroes/himself": """man/men/himself, king/kings/himself, boy/boys/himself,
        father/fathers/himself, brother/brothers/himself, son/sons/himself, lord/lords/himself,
        woman/women/herself, queen/queens/herself, girl/girls/herself, mother/mothers/herself,
        sister/sisters/herself, daughter/daughters/herself, lady/ladies/herself""",
    "helped": "helped, saved, found, saw, hurt, killed, asked, called, knew",
    "old": "old, new, small, large, good, bad, dark, strange, beautiful, very old, very large",
    "happy": "happy, young, old, here, dead, good, sick, at home, very old, very happy",
    "near": "near, behind, beside, under, above, next to, close to, far from",
    "is/are": "is/are, was/were",
    "liked": "liked, saw, found, loved, wanted, knew, made, held, remembered",
    "see/saw/seen/it": """see/saw/seen/the river, take/took/taken/the book, go/went/gone/home,
        write/wrote/written/a letter, eat/ate/eaten/the bread, speak/spoke/spoken/to the king,
        give/gave/given/a reason, fall/fell/fallen/into the water, break/broke/broken/the door,
        choose/chose/chosen/a name, draw/drew/drawn/a line, drive/drove/driven/to the city,
        begin/began/begun/the work, know/knew/known/the truth, do/did/done/the work,
        throw/threw/thrown/a stone, rise/rose/risen/from the table, steal/stole/stolen/a horse""",
    "they/them": "he/him, she/her, we/us, they/them, I/me",
    "dog": """dog, book, house, king, friend, letter, horse, man, reason, garden, tree, young man,
        new book, small house, large city, beautiful woman, great king, different way""",
    "egg": """egg, apple, army, animal, answer, office, island, enemy, idea, old man, old book,
        open door, empty house, evil king, easy way, important letter, early train, ugly dog""",
    "found/gold": """found/gold, made/bread, took/money, brought/water, bought/wine, built/house,
        kept/money, sent/letter, held/sword, wanted/book, needed/money""",
    "knows": "knows, saw, heard, told me, understood, remembered",
}  # fmt: skip
"""Rows of words, apart by commas; the key names the forms in each row."""
PHENOMENA = {
    "subject-verb agreement": (
        "The {person} [{walks}|{walk}] {there}.",
        "The {people} [{walk}|{walks}] {there}.",
    ),
    "agreement across a phrase": (
        "The {thing} {near} the {objects} [{is}|{are}] {old}.",
        "The {things} {near} the {object} [{are}|{is}] {old}.",
    ),
    "agreement across a clause": (
        "The {thing} that the {people} {liked} [{is}|{are}] {old}.",
        "The {things} that the {person} {liked} [{are}|{is}] {old}.",
    ),
    "coordination": (
        "The {person} and the {other} [{are}|{is}] {happy}.",
        "The {person} {near} the {other} [{is}|{are}] {happy}.",
    ),
    "determiner and noun": (
        "The {person} {liked} this [{thing}|{things}].",
        "The {person} {liked} these [{things}|{thing}].",
    ),
    "reflexives": (
        "The {hero} {helped} [{himself}|themselves].",
        "The {heroes} {helped} [themselves|{himself}].",
    ),
    "case of pronouns": (
        "Then [{they}|{them}] {helped} the {person}.",
        "Then the {person} {helped} [{them}|{they}].",
    ),
    "irregular past": (
        "The {person} [{saw}|{seen}] {it}.",
        "The {person} had [{seen}|{saw}] {it}.",
    ),
    "do-support": (
        "The {person} did not [{see}|{saw}] {it}.",
        "The {person} [{saw}|{see}] {it}.",
    ),
    "a and an": (
        "The {person} {liked} [a|an] {dog}.",
        "The {person} {liked} [an|a] {egg}.",
    ),
    "word order": (
        "The [{old} {thing}|{thing} {old}] {is} {near} the {object}.",
        "The {person} {is} {near} the [{old} {thing}|{thing} {old}].",
    ),
    "negative polarity": (
        "I think [no|the] {person} that [the|no] {others} {helped} has ever {seen} {it}.",
        "I think [no|the] {person} {near} [the|no] {thing} has ever {seen} {it}.",
    ),
    "filler and gap": (
        "The {person} {knows} [what|that] the {other} {found}.",
        "The {person} {knows} [that|what] the {other} {found} the {gold}.",
    ),
}
"""Templates: in [right|wrong] the sentences differ, and {words} come from the tables."""
CONTRAST = re.compile(r"\[([^|]*)\|([^]]*)\]")


def draw_words(rng: Random) -> dict[str, str]:
    """One row of each table, by the names of its forms; people and things are not repeated."""
    words = {}
    for forms, table in TABLES.items():
        rows = re.split(r",\s+", table)
        number = int(rng.random() * len(rows))
        names, row = forms.split("/"), rows[number].split("/")
        words |= zip(names, row, strict=True)
    repeats_person = words["person"] == words["other"]
    repeats_thing = words["thing"] == words["object"]
    return draw_words(rng) if repeats_person or repeats_thing else words


def make_pairs(phenomenon: str, count: int = PAIRS, seed: int = 0) -> list[tuple[str, str]]:
    """``count`` different pairs (right, wrong), from the two templates by turns."""
    rng = Random(f"{phenomenon} {seed}")
    pairs: dict[tuple[str, str], None] = {}
    while len(pairs) < count:
        words = draw_words(rng)
        twins = []
        for template in PHENOMENA[phenomenon]:
            text = template.format_map(words)
            right = CONTRAST.sub(r"\1", text)
            wrong = CONTRAST.sub(r"\2", text)
            twins.append((right, wrong))
        if pairs.keys().isdisjoint(twins):
            pairs |= dict.fromkeys(twins)
    return list(pairs)


def read_minimal_pairs(library: Library, style: str, shots: int) -> list[Question]:
    """All pairs; a sentence has no context, and each place is right as often as the other."""
    questions = []
    for phenomenon in PHENOMENA:
        for number, (right, wrong) in enumerate(make_pairs(phenomenon)):
            answer = (number + number // 2) % 2  # twins have theirs in different places
            choices = (wrong, right) if answer else (right, wrong)
            requests = tuple(("", sentence) for sentence in choices)
            question_id = f"{phenomenon} {number}"
            question = Question(requests, answer, question_id, group=phenomenon)
            questions.append(question)
    return questions


TASK = Task("minimal_pairs", "Minimal pairs", "ours", PAIRS * len(PHENOMENA), 1 / 2,
            read_minimal_pairs, "made here", normalizer="none")  # fmt: skip
