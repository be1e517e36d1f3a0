"""The StackExchange slice: questions and answers; here ChatterBot's corpus, of the same shape."""

import yaml

from minillama.corpus.books import Members, Texts, tidy


def conversations(members: Members) -> Texts:
    """One document a topic: each question followed by its answers."""
    for path, content in members:
        parts = []
        for turns in yaml.safe_load(content)["conversations"]:
            if isinstance(turns, str):  # a question whose answers are missing
                continue
            question, *answers = (str(turn).strip() for turn in turns)
            parts.append("\n".join([f"Q: {question}", *(f"A: {answer}" for answer in answers)]))
        yield path, tidy("\n\n".join(parts))
