"""``tokenizer.json``: the same pieces as merge rules, for the ``tokenizers`` library.

SentencePiece joins, again and again, the two neighbors whose union has the best score; here the
rules "join these two" are listed, best first. That is the same but for one case, where several
unions of one score overlap: SentencePiece takes the first in the text, here the first in the list.
Also, a visible blank (U+2581) in the text is a space to it, as in every other program for LLaMA,
where ``Tokenizer`` keeps it apart. No SentencePiece or protobuf is needed to read the file.
"""

from typing import Any

import tokenizers
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, decoders, models, normalizers, processors

from minillama.errors import ConfigError
from minillama.interop.vocabulary import Kind, Piece, read_pieces
from minillama.tokenizer import SPACE, Tokenizer

MARKS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
"""The control pieces 0, 1 and 2."""


def merge_rules(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Return all pairs of pieces whose union is a piece, the best union first."""
    scores = {piece.text: piece.score for piece in pieces if piece.kind == Kind.NORMAL}
    rules = []
    for piece in sorted(scores, key=scores.__getitem__, reverse=True):
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                rules.append((left, right))
    return rules


def fast_tokenizer(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """Build the tokenizer of the ``tokenizers`` library that cuts text as ours does.

    Raises:
        ConfigError: the tokenizer is no BPE, or changes the text before it cuts it.
    """
    processor = SentencePieceProcessor(model_proto=tokenizer.model)
    pieces = read_pieces(tokenizer)
    if processor.normalize(" ﬁ  x ") != f"{SPACE * 2}ﬁ{SPACE * 2}x{SPACE}":
        raise ConfigError("the tokenizer normalizes text", "use one that leaves text as it is")
    if any(piece.score % 1 for piece in pieces):
        raise ConfigError("the tokenizer is no BPE (its scores are no ranks)", "use one that is")
    model = models.BPE(
        vocab={piece.text: i for i, piece in enumerate(pieces)},
        merges=merge_rules(pieces),
        unk_token=MARKS["unk_token"],
        fuse_unk=True,
        byte_fallback=True,
    )
    fast = tokenizers.Tokenizer(model)
    # Text to pieces: one space in front, every space visible; the begin mark is put before.
    space = normalizers.Replace(" ", SPACE)
    fast.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), space])
    marks = [AddedToken(mark, normalized=False, special=True) for mark in MARKS.values()]
    fast.add_special_tokens(marks)
    begin = MARKS["bos_token"]
    fast.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, Tokenizer.bos_id)]
    )
    # Pieces to text: spaces, bytes joined to characters, the space in front taken off.
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return fast


def tokenizer_config(max_seq_len: int) -> dict[str, Any]:
    """Return the content of ``tokenizer_config.json``: use ``tokenizer.json`` exactly as it is.

    ``split_special_tokens``: marks typed as text, such as "<s>", are ordinary characters.
    ``model_input_names``: models of this kind know no token types.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **MARKS,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_seq_len,
    }
