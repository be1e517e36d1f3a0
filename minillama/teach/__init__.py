"""Helpers for notebooks and classes: show the code, prove equality, check exercises."""

from minillama.teach.check_attention import (
    check_cache_bytes,
    check_sees_the_future,
    check_streaming_attention,
)
from minillama.teach.check_benchmark_curves import (
    check_level_each,
    check_pair_order,
    check_questions_needed,
    check_shifted_accuracy,
)
from minillama.teach.check_benchmarks import (
    check_all_k,
    check_answer_rule,
    check_band,
    check_fit,
    check_paired_error,
)
from minillama.teach.check_data import (
    check_held_out,
    check_longest_run,
    check_rank_sequences,
    check_similarity,
    check_unique_tokens,
)
from minillama.teach.check_efficient import (
    check_grouped_query_numbers,
    check_layer_norm_backward,
    check_merge_attention,
    check_training_days,
    check_what_to_keep,
)
from minillama.teach.check_inference import (
    check_break_even_batch,
    check_crossover,
    check_top_p,
)
from minillama.teach.check_long_context import (
    check_full_turns,
    check_llama3,
    check_unseen_pairs,
)
from minillama.teach.check_loss_curves import (
    check_best_size,
    check_exponential_mean,
    check_noise,
    check_power_law,
    check_tokens_to_reach,
)
from minillama.teach.check_norm_feedforward import (
    check_hidden_dim,
    check_layer_norm,
    check_rms_norm_backward,
)
from minillama.teach.check_parallel import (
    check_mesh_choice,
    check_mesh_sequences,
    check_ring,
    check_sharded_bytes,
    check_split_feed_forward,
)
from minillama.teach.check_recipes import (
    check_choose_bands,
    check_expand_macro,
    check_nested_templates,
    check_sorted_answers,
)
from minillama.teach.check_rotary import check_half_split, check_interpolation, check_slowest_turn
from minillama.teach.check_tokenizer import (
    check_best_vocabulary,
    check_bits_per_byte,
    check_fall_back,
    check_merge,
    check_stream,
)
from minillama.teach.check_training import (
    check_accumulate,
    check_half_life,
    check_loss_gradient,
    check_temperature,
    check_trapezoid,
    check_windows,
)
from minillama.teach.check_web import (
    check_buckets,
    check_line_key,
    check_spans,
    check_threshold,
)
from minillama.teach.display import COLORS, show, start
from minillama.teach.proof import agreement, prove, relative_error
from minillama.teach.published import published_run

__all__ = [
    "COLORS",
    "agreement",
    "check_accumulate",
    "check_all_k",
    "check_answer_rule",
    "check_band",
    "check_best_size",
    "check_best_vocabulary",
    "check_bits_per_byte",
    "check_break_even_batch",
    "check_buckets",
    "check_cache_bytes",
    "check_choose_bands",
    "check_crossover",
    "check_expand_macro",
    "check_exponential_mean",
    "check_fall_back",
    "check_fit",
    "check_full_turns",
    "check_grouped_query_numbers",
    "check_half_life",
    "check_half_split",
    "check_held_out",
    "check_hidden_dim",
    "check_interpolation",
    "check_layer_norm",
    "check_layer_norm_backward",
    "check_level_each",
    "check_line_key",
    "check_llama3",
    "check_longest_run",
    "check_loss_gradient",
    "check_merge",
    "check_merge_attention",
    "check_mesh_choice",
    "check_mesh_sequences",
    "check_nested_templates",
    "check_noise",
    "check_pair_order",
    "check_paired_error",
    "check_power_law",
    "check_questions_needed",
    "check_rank_sequences",
    "check_ring",
    "check_rms_norm_backward",
    "check_sees_the_future",
    "check_sharded_bytes",
    "check_shifted_accuracy",
    "check_similarity",
    "check_slowest_turn",
    "check_sorted_answers",
    "check_spans",
    "check_split_feed_forward",
    "check_stream",
    "check_streaming_attention",
    "check_temperature",
    "check_threshold",
    "check_tokens_to_reach",
    "check_top_p",
    "check_training_days",
    "check_trapezoid",
    "check_unique_tokens",
    "check_unseen_pairs",
    "check_what_to_keep",
    "check_windows",
    "prove",
    "published_run",
    "relative_error",
    "show",
    "start",
]
