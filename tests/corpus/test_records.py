"""The readers of tables and of prose, on small inputs in the layouts of the packages."""

import gzip
import io
import json
import zipfile

from minillama.corpus import prose, records
from minillama.corpus.document import Document
from minillama.corpus.personal import MaskPersonal
from minillama.corpus.statistics import StepStats

BROKEN = (
    "It rained all day and all the night as well, until the miller woke and\nwent to bed again."
)


def texts(reader, content, name="x"):
    data = content if isinstance(content, bytes) else content.encode()
    return [text for _, text in reader([(name, data)])]


def test_prose_is_cut_between_paragraphs_and_its_lines_are_joined():
    paragraph = " ".join(f"word{i}" for i in range(200)) + "."
    book = "\r\n\r\n".join([BROKEN, *[paragraph] * 20])
    found = texts(prose.prose, book)
    assert len(found) > 2 and found[0].startswith(BROKEN.replace("\n", " "))
    assert "\n\n".join(found).count(paragraph) == 20
    assert all(len(page) < prose.PAGE + len(paragraph) + 9 for page in found)


def test_an_anthology_gives_the_books_and_nothing_between_them():
    def book(name, text):
        return (
            f"License of {name}\n*** START OF THE PROJECT GUTENBERG EBOOK {name} ***\n\n{text}\n\n"
            f"*** END OF THE PROJECT GUTENBERG EBOOK {name} ***\nEnd of Project Gutenberg {name}\n"
        )

    found = texts(prose.anthology, book("RAIN", "It rained.") + book("SUN", "It shone.") + "lists")
    assert found == ["It rained.", "It shone."]


def test_leads_recipes_and_lines():
    lead = {"Rain": {"title": "Rain", "extract": "Rain is water.", "topic": "weather"}}
    assert texts(records.summaries, json.dumps(lead)) == ["Rain\n\nRain is water."]
    recipe = {"Soup": {"title": "Soup", "ingredients": ["water", "salt"], "steps": ["Boil."]}}
    assert texts(records.recipes, json.dumps(recipe)) == ["Soup\n\nwater\nsalt\n\nBoil."]
    assert texts(records.text_lines, "One article.\n\nAnother.\n") == ["One article.", "Another."]
    assert texts(records.json_lines, '{"text": "a"}\n{"text": "b"}\n') == ["a", "b"]


def test_a_factbook_keeps_what_is_written_in_sentences():
    long = "The country lies between two rivers and has <b>many</b> mills. " * 3
    country = {"Place": {"Area": {"text": "12 sq km"}, "Background": {"text": long}}}
    [text] = texts(records.factbook, json.dumps(country))
    assert text.startswith("Background: The country lies between two rivers and has many mills.")
    assert "12 sq km" not in text and "<" not in text


def conversation(turns, **more):
    turn = [{"text": "I like rain.", "sender": "0f9fe1f8", "timestamp": "2018-10-15T07:22:37Z"}]
    return {"messages": [turn] * turns, **more}


def test_talk_has_no_speakers_and_no_times():
    talks = {"a": conversation(6), "b": conversation(5)}
    [text] = [t for _, t in records.talk([("x", json.dumps(talks).encode())], best=False)]
    assert text == "\n".join(["- I like rain."] * 6)


def test_a_conversation_is_talk_or_answers_never_both():
    rated = {"witty": 10, "upbeat": 10, "interesting": 8}
    talks = {"a": conversation(6, prompt="Rain?", ratings=rated), "b": conversation(7)}
    members = [("x", json.dumps(talks).encode())]
    [(best, text)] = records.talk(members, best=True)
    [(rest, _)] = records.talk(members, best=False)
    assert (best, rest) == ("x#0", "x#1") and text.startswith("Q: Rain?\n\n- I like rain.")


def test_verses_glosses_and_speeches():
    rows = 'field,field,field,field,field\n"01001001","1","1","1","God{A note.} made it."\n'
    assert texts(records.bible_table, gzip.compress(rows.encode())) == [
        "Chapter 1\n\n1 God made it."
    ]
    entry = "00001740 03 n 02 rain 0 wet_weather 0 001 @ 00001 n 0000 | water that falls  \n"
    assert texts(records.glosses, "  1 license\n" + entry) == [
        "rain, wet weather: water that falls"
    ]
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("en.csv", 'id,text\n1,"Order, order."\n')
    assert texts(records.speeches, held.getvalue()) == ["Order, order."]


def test_a_service_is_documented_once_in_plain_text():
    api = {
        "documentation": "<p>Makes <b>rain</b>.</p>",
        "shapes": [{"documentation": "A cloud."}] * 2,
    }
    [text] = texts(records.service_documentation, gzip.compress(json.dumps(api).encode()))
    assert "Makes rain." in text and text.count("A cloud.") == 1


def test_personal_data_is_masked_and_counted_and_only_where_persons_write():
    said = (
        "Write to a.b@mail.org or @rainman, call (801) 555-0199, see https://x.org/y, id 12345678."
    )
    step, stats = MaskPersonal(("talks",)), StepStats("personal data")
    document = Document(said, "commoncrawl", "talks==1.0", "x")
    masked = step.process(document, stats).text
    assert masked == (
        "Write to [e-mail address] or [handle], call [telephone number], see [link] "
        "id [long number]."
    )
    assert sum(stats.removed.values()) == 5
    assert step.process(Document(said, "commoncrawl", "docs==1.0", "x"), stats).text == said
    plain = "In 1984 we paid 1,250,000 for 3.14159265 acres on page 12345."
    assert step.process(Document(plain, "", "talks==1.0", "x"), stats).text == plain
