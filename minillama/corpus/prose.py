"""General English for CommonCrawl's row: speeches, novels and essays, cut into pages.

No package holds a crawl of the web. What stands for one should be as long as a page of it and as
varied as packages allow; so books become pages, which quality filters judge one by one.
"""

from collections.abc import Iterator

from minillama.corpus.books import END, START, strip_gutenberg
from minillama.corpus.c4 import unwrap
from minillama.corpus.document import Members, Texts, decode_text, tidy

PAGE = 8_000
"""Characters of a page, and whatever its last paragraph has beyond."""


def pages(text: str, size: int = PAGE) -> Iterator[str]:
    """A text cut between paragraphs into pages of ``size`` characters or a little more."""
    page: list[str] = []
    for paragraph in text.split("\n\n"):
        page.append(paragraph)
        if sum(map(len, page)) >= size:
            yield "\n\n".join(page)
            page = []
    if page:
        yield "\n\n".join(page)


def reflow(text: str) -> str:
    """A text of lines that were broken for print: one line a paragraph, single blanks."""
    lines = (" ".join(line.split()) for line in unwrap(tidy(text)).split("\n"))
    return tidy("\n".join(lines))


def prose(members: Members) -> Texts:
    """The pages of books and speeches, each file one work."""
    for path, content in members:
        text = reflow(strip_gutenberg(decode_text(content)))
        for number, page in enumerate(pages(text)):
            yield f"{path}#{number}", page


def anthology(members: Members) -> Texts:
    """The pages of a file in which several Gutenberg books follow one another."""
    for path, content in members:
        text = tidy(decode_text(content))
        begins = [start.end() for start in START.finditer(text)]
        kept_to = 0
        for end in END.finditer(text):
            begin = max((at for at in begins if kept_to < at < end.start()), default=None)
            if begin is None:  # a footer ends twice: with a line, and in words
                continue
            for number, page in enumerate(pages(reflow(text[begin : end.start()]))):
                yield f"{path}#{begin}-{number}", page
            kept_to = end.start()
