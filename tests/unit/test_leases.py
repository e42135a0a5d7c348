"""Leases by themselves: never more than allowed, in order, and nothing lost with who held them."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from session_supervisor.leases import Leases


class LeaseMachine(RuleBasedStateMachine):
    """Two crews under one parent, workers that come, hold, give back and die."""

    @initialize(mine=st.integers(0, 3), all_=st.integers(0, 4))
    def begin(self, mine: int, all_: int) -> None:
        self.parent = Leases(all_)
        self.crews = [Leases(mine, self.parent), Leases(mine, self.parent)]
        self.granted: Counter[tuple[int, str]] = Counter()
        self.asked: Counter[tuple[int, str]] = Counter()

    @rule(crew=st.integers(0, 1), worker=st.sampled_from("abc"))
    def ask(self, crew: int, worker: str) -> None:
        who = (crew, worker)
        self.asked[who] += 1
        self.crews[crew].ask(who, lambda: self.granted.update([who]))

    @rule(crew=st.integers(0, 1), worker=st.sampled_from("abc"))
    def give_back(self, crew: int, worker: str) -> None:
        who = (crew, worker)
        if self.granted[who]:
            self.granted[who] -= 1
            self.asked[who] -= 1
            self.crews[crew].give_back(who)

    @rule(crew=st.integers(0, 1), worker=st.sampled_from("abc"))
    def die(self, crew: int, worker: str) -> None:
        who = (crew, worker)
        self.granted[who] = self.asked[who] = 0
        self.crews[crew].drop(who)

    @invariant()
    def bounds_hold_and_nobody_waits_for_nothing(self) -> None:
        if not hasattr(self, "parent"):
            return
        out = self.granted.total()
        assert out == self.parent.used
        assert not self.parent.limit or out <= self.parent.limit
        waiting = self.asked.total() - out
        for index, crew in enumerate(self.crews):
            held = sum(count for (own, _), count in self.granted.items() if own == index)
            assert not crew.limit or held <= crew.limit
        if waiting and (not self.parent.limit or out < self.parent.limit):
            for index, crew in enumerate(self.crews):
                mine = sum(count for (own, _), count in self.asked.items() if own == index)
                held = sum(count for (own, _), count in self.granted.items() if own == index)
                assert mine == held or (crew.limit and held == crew.limit)


TestLeases = LeaseMachine.TestCase
