from framehaul_pipeline.errors import AtWork


def test_whose_work_a_worker_died_at() -> None:
    assert AtWork.of(1, frozenset()) is AtWork.NO
    assert AtWork.of(1, frozenset({2})) is AtWork.NO
    assert AtWork.of(1, frozenset({1, 2})) is AtWork.BESIDE_OTHERS
    assert AtWork.of(1, frozenset({1})) is AtWork.ALONE
