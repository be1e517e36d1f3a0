"""The StackExchange slice: questions and answers; here ChatterBot's corpus, of the same shape."""

from typing import Any

import yaml
from yaml.events import AliasEvent

from minillama.corpus.document import Members, Texts, tidy

MAX_DEPTH = 20


class Plain(yaml.SafeLoader):
    """YAML without aliases, which can make a few bytes stand for any number, and without depths."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse what conversations do not need."""
        if self.check_event(AliasEvent) or self.depth > MAX_DEPTH:
            raise yaml.YAMLError("an alias, or lists in lists in lists")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def conversations(members: Members) -> Texts:
    """One document a topic: each question followed by its answers."""
    for path, content in members:
        parts = []
        for turns in yaml.load(content, Plain)["conversations"]:
            if isinstance(turns, str):  # a question whose answers are missing
                continue
            question, *answers = (str(turn).strip() for turn in turns)
            parts.append("\n".join([f"Q: {question}", *(f"A: {answer}" for answer in answers)]))
        yield path, tidy("\n\n".join(parts))
