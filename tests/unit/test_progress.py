from workers.progress import LEAST_SECONDS, Progress


class Clock:
    now = 5.0

    def __call__(self) -> float:
        return self.now


def test_a_loop_that_does_not_turn_is_noticed_within_half_a_lease() -> None:
    clock = Clock()
    progress = Progress(20.0, clock)
    assert progress.note(1)
    for _ in range(19):
        clock.now += 0.5
        assert progress.note(1)
    clock.now += 0.5
    assert not progress.note(1)
    assert progress.note(2)


def test_a_short_lease_does_not_make_a_slow_step_a_dead_loop() -> None:
    clock = Clock()
    progress = Progress(0.5, clock)
    progress.note(1)
    for _ in range(3):
        clock.now += LEAST_SECONDS / 4
        assert progress.note(1)


def test_a_process_that_stood_still_as_a_whole_does_not_take_its_engine_for_dead() -> None:
    clock = Clock()
    progress = Progress(2.0, clock)
    assert progress.note(1)
    clock.now += 60
    assert progress.note(1)
