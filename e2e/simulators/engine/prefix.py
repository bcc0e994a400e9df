"""The prefix cache of an engine: blocks of 16 tokens, each known by all that stands before it, the least recently used
one out first.

As in vLLM (v1/core/kv_cache_manager.py, block size 16): only whole blocks are found, and the last token of a prompt is
always computed, since something has to give the first one of the answer. SGLang's radix tree finds single tokens; here
it finds blocks, too, so up to 15 tokens less. What running sequences generate takes its place from what the cache can
keep. Blocks in use are not locked: they are those used last, and go only where nothing else is left.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from e2e.simulators.completions import BYTES_PER_TOKEN

BLOCK_TOKENS = 16
_BLOCK_BYTES = BLOCK_TOKENS * BYTES_PER_TOKEN


def blocks(text: bytes) -> tuple[int, ...]:
    """The whole blocks of a text, in order; two texts share as many as they have in common from their start."""
    found, known = [], 0
    for start in range(0, len(text) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
        known = hash((known, text[start : start + _BLOCK_BYTES]))
        found.append(known)
    return tuple(found)


class PrefixCache:
    """Blocks of finished and running sequences, of `capacity_tokens` in all."""

    def __init__(self, capacity_tokens: int) -> None:
        self._capacity = capacity_tokens // BLOCK_TOKENS
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def find(self, prompt: Sequence[int], prompt_tokens: int) -> int:
        """Tokens at the start of a prompt that need not be computed; what is found counts as used now."""
        most = (prompt_tokens - 1) // BLOCK_TOKENS
        found = 0
        for block in prompt[:most]:
            if block not in self._blocks:
                break
            self._blocks.move_to_end(block)
            found += 1
        return found * BLOCK_TOKENS

    def keep(self, computed: Sequence[int], held_tokens: int) -> None:
        """Add blocks, and make room: `held_tokens` is what running sequences hold of the same memory.

        From the end to the start, so that of one text the end is evicted first: a block without those before it can
        never be found."""
        for block in reversed(computed):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        room = max(0, self._capacity - held_tokens // BLOCK_TOKENS)
        while len(self._blocks) > room:
            self._blocks.popitem(last=False)
