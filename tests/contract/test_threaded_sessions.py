"""What the supervisor keeps right when a worker has several requests in flight."""

from __future__ import annotations

from tests.support.harness import Harness


def test_a_worker_whose_change_crossed_news_on_the_way_is_told_again() -> None:
    h = Harness().start()
    session = h.open(threads=2)
    assert h.ask(session, "part k") == "-"
    _, slow = h.send(session, "sleep-put 0.4 k=mine", mutating=False)
    session.commit({"k": b"news"}, lambda _failure: None)
    _, beside = h.send(session, "part k", mutating=False)  # brings the news along, behind the slow one
    h.until(lambda: slow.terminal and beside.terminal)
    assert session.snapshot.get("k") == b"mine"
    assert h.ask(session, "part k") == "mine"
    h.close()
