"""Where the time of a run goes."""

import time

from agrifm.progress import Timing


def test_parts_are_added_up_and_stated_as_shares(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 4.0, 5.0, 10.0])  # start, two parts with begin and end, end
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    timing = Timing()
    with timing.during("reading"):
        pass
    with timing.during("computing"):
        pass
    assert timing.seconds == {"reading": 2.0, "computing": 1.0}
    assert str(timing) == "took 0:00:10: reading 20%, computing 10%"


def test_each_counts_the_wait_for_items_and_not_their_use(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    timing = Timing()

    def made():
        nonlocal now
        for number in range(3):
            now += 1.0
            yield number

    used = []
    for item in timing.each("computing", made()):
        used.append(item)
        now += 10.0
    assert used == [0, 1, 2]
    assert timing.seconds["computing"] == 3.0
