"""What a worker says of the card it runs on."""

import pytest
import torch

from nowserving.catalog import parse_catalog
from nowserving.settings import Settings
from tests.scrape import samples
from workers.worker import Worker


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_worker_tells_what_it_holds_of_the_card_and_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWSERVING_MEMORY_PROBE", raising=False)
    catalog = parse_catalog(
        {"models": {"m": {"source": "builtin:smollm2", "device": "cuda", "memory_fraction": 0.5}}}, "models.toml"
    )
    worker = Worker(Settings(), catalog["m"])
    try:
        worker._load()
        told = samples(worker._metrics.write().decode())
        allocated, used, free, total, limit = (
            told[f"nowserving_worker_device_{name}_bytes m"] for name in ("allocated", "used", "free", "total", "limit")
        )
        assert total == torch.cuda.mem_get_info()[1]
        assert limit == int(0.5 * total)
        assert 0 < allocated <= used < total
        assert free == total - used
        assert told["nowserving_worker_budget_bytes m"] <= limit - allocated
        assert told["nowserving_worker_promised_bytes m"] == 0
        ballast = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
        grown = samples(worker._metrics.write().decode())
        assert grown["nowserving_worker_device_allocated_bytes m"] - allocated >= ballast.numel()
    finally:
        worker.close()
