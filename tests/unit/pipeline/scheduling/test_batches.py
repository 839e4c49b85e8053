"""When a batch of a film's frames is next."""

from framehaul_pipeline.scheduling.batches import MOST_CHUNKS_BEFORE, Batch, Batches


def batch(query: int, slot: int) -> Batch:
    return Batch(query, slot, 1, 8)


def test_earlier_queries_come_first_whatever_others_have_ready() -> None:
    batches = Batches()
    for query, slot in ((2, 0), (1, 1), (2, 2), (1, 3)):
        batches.add(batch(query, slot))
    order = []
    while (taken := batches.take(chunks_first=False)) is not None:
        order.append((taken.query, taken.slot))
        batches.finish()
    assert order == [(1, 1), (1, 3), (2, 0), (2, 2)]


def test_one_is_on_the_device_at_a_time() -> None:
    """So a chunk never waits for more than one."""
    batches = Batches()
    batches.add(batch(1, 0))
    batches.add(batch(1, 1))
    assert batches.take(chunks_first=False) is not None
    assert batches.take(chunks_first=False) is None
    batches.finish()
    assert batches.take(chunks_first=False) is not None


def test_chunks_come_first_but_not_for_ever() -> None:
    """A batch runs after so many chunks, and those are counted from when one waits."""
    batches = Batches()
    for _ in range(10):
        batches.chunk_begins()
    batches.add(batch(1, 0))
    batches.add(batch(1, 1))
    for slot in range(2):
        for _ in range(MOST_CHUNKS_BEFORE):
            assert batches.take(chunks_first=True) is None
            batches.chunk_begins()
        taken = batches.take(chunks_first=True)
        assert taken is not None
        assert taken.slot == slot
        batches.finish()


def test_a_cancelled_query_gives_its_slots_back() -> None:
    batches = Batches()
    for slot in range(2):
        batches.add(batch(1, slot))
    assert [each.slot for each in batches.close(1)] == [0, 1]
    assert batches.close(1) == []
    assert batches.take(chunks_first=False) is None
