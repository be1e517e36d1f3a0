"""Social IQa: what does somebody feel, want or do next? (Sap et al., 2019; Table 3)

lm-evaluation-harness's prompt, "Q: ... A:"; OLMES spells both words out. The harness itself reports
the unnormalized accuracy; the paper normalizes by characters. A model that knows nothing reaches
36% that way, for the right answers differ in length from the wrong ones.
"""

from minillama.evaluate.tasks.task import Question, Task, after
from minillama.evaluate.tasks.wheel import Library

VARIANT = "socialiqa/rc_0shot"


def read(library: Library, style: str, shots: int) -> list[Question]:
    """The validation split."""
    ask = "Q: {}\nA:" if style == "llama" else "Question: {}\nAnswer:"
    return [
        after(
            ask.format(f"{doc['context']} {doc['question']}"),
            doc["choices"], doc["gold"], id=str(doc["index"]),
        )
        for doc in library.documents(VARIANT)
    ]  # fmt: skip


TASK = Task("socialiqa", "SIQA", "validation", 1_954, 1 / 3, read, VARIANT)
