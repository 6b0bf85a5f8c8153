"""A few hundred mutated inputs; `make fuzz` runs thousands of them."""

import formats
import harness
import pytest

EACH = 12  # cases of a format


@pytest.mark.parametrize("kind", sorted(formats.FORMATS))
def test_mutated_input_is_right_or_refused(kind):
    results = harness.run([(kind, seed) for seed in range(EACH)])
    assert len(results) == EACH
    bad = [result for result in results if result.outcome in harness.BAD]
    assert not bad, "\n".join(f"{result.outcome}, seed {result.seed}: {result.text}" for result in bad)


def test_the_harness_notices_what_must_not_happen(monkeypatch):
    """Readers that do each of the forbidden things once."""

    def read(case):
        deeds[(case / "deed").read_text()](case)

    def prepare(folder):
        (folder / "deed").write_text("nothing")

    def mutate(case, rng, words):
        (case / "deed").write_text(rng.choice(sorted(deeds)))

    def write_outside(case):
        (case.parent / "outside" / "new").write_text("x")

    def run_a_program(case):
        __import__("os").system("true")

    def break_a_promise(case):
        formats.promise(False, "broken")

    def die(case):
        __import__("os")._exit(1)

    deeds = {
        "nothing": lambda case: None,
        "write": write_outside,
        "run": run_a_program,
        "break": break_a_promise,
        "die": die,
        "fail": lambda case: 1 / 0,
        "hang": lambda case: __import__("time").sleep(60),
    }
    outcomes = {"nothing": "right", "write": "outside", "run": "outside", "break": "silent"}
    outcomes |= {"die": "crash", "fail": "traceback", "hang": "hang"}
    monkeypatch.setattr(harness, "TIME_LIMIT", 1.0)
    monkeypatch.setattr(harness, "PREPARING", 0.0)
    monkeypatch.setitem(formats.FORMATS, "deeds", formats.Format(prepare, mutate, read))
    # The mutations of these seeds are the deeds in this order.
    seeds = {"write": 0, "run": 2, "nothing": 3, "die": 5, "break": 11, "fail": 13, "hang": 4}
    results = harness.run([("deeds", seed) for seed in seeds.values()])
    assert [result.outcome for result in results] == [outcomes[deed] for deed in seeds]
