"""What is worth twice the work."""

from graphopt.compression.worth import worth_twice


def test_what_makes_most_noise_for_its_work_is_chosen():
    assert worth_twice([8.0, 1.0, 0.5], 1.0, [1.0, 1.0, 1.0], 1.0) == {0}


def test_nothing_is_chosen_where_other_noise_drowns_it():
    assert worth_twice([1.0, 1.0], 1000.0, [1.0, 1.0], 0.1) == frozenset()


def test_parts_that_are_worth_it_only_together_are_chosen_together():
    # The first alone takes away 1.2 dB, for 3.75 that its work must bring; both take away 20 dB.
    assert worth_twice([1.0, 3.0], 0.04, [1.0, 3.0], 1.5) == {0, 1}
    assert worth_twice([1.0, 3.0], 4.0, [1.0, 3.0], 1.5) == frozenset()


def test_noise_that_is_not_finite_chooses_nothing():
    assert worth_twice([float("inf"), 1.0], 1.0, [1.0, 1.0], 0.1) == frozenset()
    assert worth_twice([float("nan"), 1.0], 1.0, [1.0, 1.0], 0.1) == frozenset()


def test_silence_needs_nothing():
    assert worth_twice([0.0, 0.0], 0.0, [1.0, 1.0], 0.1) == frozenset()


def test_no_more_is_done_twice_than_asked_for():
    noise, work = [4.0, 2.0, 1.0], [1.0, 1.0, 1.0]
    assert worth_twice(noise, 0.01, work, 0.1) == {0, 1, 2}
    assert worth_twice(noise, 0.01, work, 0.1, most=0.7) == {0, 1}
    assert worth_twice(noise, 0.01, work, 0.1, most=0.3) == frozenset()
