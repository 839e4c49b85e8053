from framehaul_server.core.session_id import epoch_of, new_session_id


def test_ids_are_long_and_never_the_same_and_say_which_server_has_the_session() -> None:
    ids = {new_session_id(1 << 60) for _ in range(100)}
    assert len(ids) == 100
    assert {len(each) for each in ids} == {24}
    assert {epoch_of(each) for each in ids} == {1 << 60}


def test_other_bytes_are_no_id() -> None:
    assert [epoch_of(each) for each in (b"", bytes(16), bytes(25))] == [None, None, None]
