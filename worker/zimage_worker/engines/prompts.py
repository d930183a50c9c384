"""Prompts to embeddings, remembered: the same words are read once. Exact: the picture is the same to the byte."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from ..errors import BadRequest
from ..images import ImageOrder
from . import Count

# The encoder pads to one of these; 512 is the pipeline's own. The position table (1536, of which
# the frame axis takes a little) ends before the next one.
PADDED_TOKENS = (512, 1024)
TOKENS_MAX = PADDED_TOKENS[-1]
# In the host's memory. A prompt of 100 tokens is 0.5 MB with the real encoder: some 128 prompts. A guess.
CACHE_MAX_BYTES = 64 * 1024 * 1024


class Prompts:
    """The tokenizer and the text encoder of one pipeline."""

    def __init__(self, pipeline: Any, count: Count, longest_bytes: int = CACHE_MAX_BYTES) -> None:
        self.pipeline = pipeline
        self.count = count
        # Tokenizers change themselves while they work: the event loop gets its own.
        self.counter = copy.deepcopy(pipeline.tokenizer)
        self.longest_bytes = longest_bytes
        self.held_bytes = 0
        self.known: OrderedDict[str, Any] = OrderedDict()

    def tokens(self, order: ImageOrder) -> int:
        """How many text tokens the model reads for an order. On the event loop.

        Raises:
            BadRequest: more than it can read; the pipeline would cut them silently.
        """
        total = 0
        for name, text in texts(order):
            tokens = len(self.counter(chat(self.counter, text)).input_ids)
            if tokens > TOKENS_MAX:
                raise BadRequest(f"{name}: it has {tokens} tokens; at most {TOKENS_MAX} are read", param=name)
            total += tokens
        return total

    def embeddings(self, order: ImageOrder) -> list[Any]:
        """One tensor (tokens x width) for each text of the order, on the pipeline's device."""
        device = self.pipeline._execution_device
        return [self.embedding(text).to(device) for _, text in texts(order)]

    def embedding(self, text: str) -> Any:
        """One text's, on the CPU."""
        if text in self.known:
            self.known.move_to_end(text)
            self.count("embedding_hit")
            return self.known[text]
        self.count("embedding_miss")
        made = self.encoded(text).to("cpu")
        self.known[text] = made
        self.held_bytes += made.nbytes
        while self.held_bytes > self.longest_bytes:
            self.held_bytes -= self.known.popitem(last=False)[1].nbytes
        return made

    def encoded(self, text: str) -> Any:
        """By the pipeline itself, padded as it pads: without the padding some lengths differ in the last bit."""
        tokenizer = self.pipeline.tokenizer
        tokens = len(tokenizer(chat(tokenizer, text)).input_ids)
        padded = next(length for length in PADDED_TOKENS if tokens <= length)
        # A new list each time: the pipeline writes its chat template back into it.
        found = self.pipeline.encode_prompt([text], do_classifier_free_guidance=False, max_sequence_length=padded)
        return found[0][0]


def texts(order: ImageOrder) -> list[tuple[str, str]]:
    """What is read: the negative prompt only with guidance, but then in any case."""
    read = [("prompt", order.prompt)]
    return [*read, ("negative_prompt", order.negative_prompt)] if order.guidance_scale > 0 else read


def chat(tokenizer: Any, text: str) -> str:
    """The text inside the template that the pipeline uses."""
    messages = [{"role": "user", "content": text}]
    whole: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    return whole
