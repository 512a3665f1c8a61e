"""Which of the measured candidates is shipped."""

from types import SimpleNamespace

from graphopt.runtime.latency import LatencyComparison, LatencySummary
from graphopt.runtime.latency_statistics import Interval
from graphopt.search.choose import choose


def candidate(
    name,
    ratio=None,
    size=1.0,
    *,
    is_correct=True,
    meets_gates=True,
    verdict="faster",
    spread=0.0,
    sqnr_db=None,
):
    latency = None
    if ratio is not None:
        surest = Interval(ratio, ratio - spread, ratio + spread)
        latency = SimpleNamespace(surest=surest, verdict=verdict)
    return SimpleNamespace(
        name=name,
        latency=latency,
        size_ratio=size,
        comparison=SimpleNamespace(errors=SimpleNamespace(worst_sqnr_db=lambda: sqnr_db)),
        is_correct=is_correct,
        meets_gates=is_correct and meets_gates,
    )


def chosen(*candidates, worth_of_3_db=1.0, enough_db=40.0):
    best = choose(candidates, worth_of_3_db, enough_db=enough_db)
    return None if best is None else best.name


def test_the_fastest_that_meets_every_gate_wins():
    assert chosen(candidate("slow", 0.9), candidate("fast", 0.3)) == "fast"


def test_what_is_wrong_is_never_chosen_however_fast():
    assert chosen(candidate("wrong", 0.1, is_correct=False), candidate("right", 0.9)) == "right"
    assert chosen(candidate("wrong", 0.1, is_correct=False)) is None
    assert chosen() is None


def test_a_candidate_that_misses_a_goal_is_the_last_resort():
    missed = candidate("missed", 0.5, meets_gates=False)
    assert chosen(missed, candidate("met", 0.8)) == "met"
    assert chosen(missed, candidate("wrong", 0.1, is_correct=False)) == "missed"


def test_among_equally_fast_ones_the_smallest_wins():
    assert chosen(candidate("large", 0.300, 0.6), candidate("small", 0.310, 0.25)) == "small"
    assert chosen(candidate("fast", 0.300, 0.6), candidate("small", 0.330, 0.25)) == "fast"


def test_a_difference_that_is_not_sure_is_none():
    large, small = ("large", 0.80, 0.97), ("small", 0.90, 0.27)
    assert chosen(candidate(*large, spread=0.06), candidate(*small, spread=0.06)) == "small"
    assert chosen(candidate(*large, spread=0.02), candidate(*small, spread=0.02)) == "large"


def test_without_timing_the_smallest_wins():
    assert chosen(candidate("large", size=0.9), candidate("small", size=0.3)) == "small"


def test_among_files_of_one_size_the_first_wins():
    assert chosen(candidate("first", 0.5, 0.301), candidate("second", 0.5, 0.300)) == "first"
    assert chosen(candidate("first", 0.5, 0.31), candidate("second", 0.5, 0.30)) == "second"


def test_a_ratio_that_is_mostly_noise_wins_nothing():
    noisy = candidate("noisy", 0.2, verdict="too-noisy")
    assert chosen(noisy, candidate("sure", 0.5)) == "sure"
    assert chosen(noisy, candidate("small", 0.99, 0.3, verdict="same")) == "small"


def test_accuracy_is_worth_as_much_time_as_the_target_says():
    coarse, fine = candidate("coarse", 0.30, sqnr_db=18.0), candidate("fine", 0.40, sqnr_db=38.0)
    assert chosen(coarse, fine) == "coarse"
    assert chosen(coarse, fine, worth_of_3_db=1.08) == "fine"
    assert chosen(coarse, fine, worth_of_3_db=1.02) == "coarse"


def test_accuracy_far_beyond_what_is_enough_is_worth_nothing():
    enough, exact = candidate("enough", 0.5, sqnr_db=49.0), candidate("exact", 1.0)
    assert chosen(enough, exact, worth_of_3_db=1.08) == "enough"
    assert chosen(enough, candidate("finer", 0.6, sqnr_db=90.0), worth_of_3_db=1.5) == "enough"


def test_accuracy_beyond_what_is_enough_is_worth_little_and_then_nothing():
    """As measured of a segmenter, and of an encoder of speech."""
    fast = candidate("fast", 0.58, 0.277, sqnr_db=27.5)
    fine = candidate("fine", 0.849, 0.507, sqnr_db=48.4)
    assert chosen(fast, fine, worth_of_3_db=1.12, enough_db=35.0) == "fast"
    assert chosen(fast, fine, worth_of_3_db=1.12, enough_db=42.0) == "fine"
    faster = candidate("faster", 0.497, 0.354, sqnr_db=41.2)
    finer = candidate("finer", 0.53, 0.355, sqnr_db=44.5)
    assert chosen(faster, finer, worth_of_3_db=1.12, enough_db=35.0) == "finer"
    assert chosen(faster, finer, worth_of_3_db=1.12, enough_db=25.0) == "faster"


def test_accuracy_does_not_outweigh_that_a_model_is_faster_at_all():
    """As measured of EfficientNet without matrix kernels: floats with packed weights had won."""
    faster = candidate("faster", 0.92, 0.294, spread=0.01, sqnr_db=37.8)
    packed = candidate("packed", 1.0, 0.289, spread=0.01, sqnr_db=46.8, verdict="same")
    assert chosen(faster, packed, worth_of_3_db=1.12, enough_db=35.0) == "faster"
    hardly = candidate("hardly", 0.97, 0.294, spread=0.01, sqnr_db=37.8)
    assert chosen(hardly, packed, worth_of_3_db=1.12, enough_db=35.0) == "packed"
    unsure = candidate("unsure", 0.92, 0.294, spread=0.1, sqnr_db=37.8, verdict="same")
    assert chosen(unsure, packed, worth_of_3_db=1.12, enough_db=35.0) == "packed"


def test_where_nobody_gains_time_accuracy_costs_no_size():
    """As measured of an object detector, whose floats had won by 2 dB over a third of the size."""
    floats = candidate("floats", 0.994, 0.997, spread=0.01, verdict="same")
    packed = candidate("packed", 0.997, 0.302, spread=0.01, sqnr_db=40.0, verdict="same")
    assert chosen(packed, floats, worth_of_3_db=1.12, enough_db=35.0) == "packed"
    coarse = candidate("coarse", 0.997, 0.298, spread=0.01, sqnr_db=30.0, verdict="same")
    assert chosen(coarse, packed, floats, worth_of_3_db=1.12, enough_db=35.0) == "packed"


def test_what_is_as_fast_as_a_faster_one_may_be_smaller():
    """As measured of a detector of speech: floats were at the edge of what counts as faster."""
    floats = candidate("floats", 0.944, 0.97, spread=0.01)
    packed = candidate("packed", 0.96, 0.27, spread=0.01, sqnr_db=42.0)
    assert chosen(floats, packed, worth_of_3_db=1.12, enough_db=35.0) == "packed"


def test_what_is_as_good_for_its_accuracy_is_chosen_by_size():
    fine = candidate("fine", 0.324, size=0.3, sqnr_db=33.0)
    small = candidate("small", 0.300, size=0.2, sqnr_db=30.0)
    assert chosen(fine, small, worth_of_3_db=1.08) == "small"


def test_a_little_size_does_not_cost_much_accuracy_where_speeds_are_much_the_same():
    fine = candidate("fine", 0.300, 0.259, sqnr_db=26.0)
    small = candidate("small", 0.310, 0.254, sqnr_db=17.5)
    assert chosen(fine, small) == "small"
    assert chosen(fine, small, worth_of_3_db=1.08) == "fine"


def test_what_nobody_can_time_here_is_chosen_in_the_order_of_the_target():
    candidates = [
        candidate("wrong", size=0.1, is_correct=False),
        candidate("missed", size=0.1, meets_gates=False),
        candidate("first", size=0.5),
        candidate("smaller", size=0.25),
    ]
    assert choose(candidates, in_order=True).name == "first"
    assert choose(candidates[:2], in_order=True).name == "missed"


def test_accuracy_is_worth_no_size_where_nothing_was_timed():
    exact, small = candidate("exact", size=1.0, sqnr_db=60), candidate("small", sqnr_db=20)
    small.size_ratio = 0.25
    assert chosen(exact, small, worth_of_3_db=1.08) == "small"


def test_no_time_is_paid_for_more_than_enough():
    near, nearer = candidate("near", 0.25, sqnr_db=18.0), candidate("nearer", 0.3, sqnr_db=33.0)
    assert chosen(near, nearer, worth_of_3_db=1.08) == "nearer"
    assert chosen(near, nearer, worth_of_3_db=1.08, enough_db=18.0) == "near"


def test_wall_time_of_a_busy_machine_gives_way_to_cpu_time():
    """As measured of a speech encoder: the faster one by CPU time was 0.49 to 0.77 by the wall."""
    busy = compared((0.752, 0.490, 0.765), cpu=(0.530, 0.520, 0.540))
    assert busy.surest == Interval(0.530, 0.520, 0.540)
    calm = compared((0.598, 0.583, 0.617), cpu=(0.605, 0.560, 0.650))
    assert calm.surest == Interval(0.598, 0.583, 0.617)
    assert compared((0.752, 0.490, 0.765), cpu=None).surest.ratio == 0.752


def compared(wall, cpu):
    summary = LatencySummary(1.0, 1.0, 1.0, 1.0, 1, 0)
    return LatencyComparison(
        verdict="faster", reason="", bound=1.0, ratio=wall[0], ratio_low=wall[1],
        ratio_high=wall[2], cpu_ratio=cpu[0] if cpu else 1.0, before=summary, after=summary,
        threads=1, rounds=30, seconds=1.0, cpu_interval=cpu and cpu[1:],
    )  # fmt: skip
