"""How large caches are, which is asked for each running job many times before each take."""

import pytest
import torch

from workers.engines.cache import MAX_CHUNK_TOKENS, CacheLayout, JobCache, LayerShape

PLAIN, RING = LayerShape(2, 4, 3, None), LayerShape(1, 4, 4, 8)
CPU = torch.device("cpu")


@pytest.mark.parametrize("tokens", [1, 9, MAX_CHUNK_TOKENS + 7, MAX_CHUNK_TOKENS + 90])
def test_a_size_is_what_the_cache_then_takes(tokens: int) -> None:
    layout = CacheLayout((PLAIN, RING, PLAIN, RING, RING), torch.float16, CPU)
    cache = JobCache(layout, tokens)
    kept = sum(part.numel() for part in (*cache.keys, *cache.values))
    assert layout.size_bytes(tokens) == cache.memory.nbytes == 2 * kept


def test_layers_of_one_shape_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[LayerShape] = []

    def elements(layer: LayerShape, tokens: int) -> int:
        asked.append(layer)
        return tokens

    layout = CacheLayout((PLAIN, RING) * 40, torch.float16, CPU)
    monkeypatch.setattr(LayerShape, "elements", elements)
    assert layout.elements(5) == 80 * 5
    assert asked == [PLAIN, RING]
