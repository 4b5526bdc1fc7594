"""Times of programs in turns, by clocks that tests set."""

from __future__ import annotations

from prunelab.evaluation.target import Target
from prunelab.evaluation.turns import Clocks, in_turns


class Machine:
    """A processor on which each program takes a known time, and a second process that takes the rest."""

    def __init__(self) -> None:
        self.processor = self.wall = 0.0
        self.order: list[str] = []

    def program(self, name: str, seconds: float) -> object:
        def run() -> None:
            self.order.append(name)
            self.processor += seconds
            self.wall += 3 * seconds

        return run

    @property
    def clocks(self) -> Clocks:
        return Clocks(lambda: self.processor, lambda: self.wall, lambda: None)


def test_programs_take_turns_and_both_clocks_are_read() -> None:
    machine = Machine()
    one, two = machine.program("a", 0.5), machine.program("b", 0.25)
    times = in_turns([one, two], machine.clocks, seconds=2.25, turns=(2, 9))  # type: ignore[list-item]
    assert machine.order[4:] == ["a", "b"] * 3
    assert times[0].processor.tolist() == [0.5] * 3
    assert times[1].wall.tolist() == [0.75] * 3


def test_the_number_of_turns_is_limited() -> None:
    for seconds, turns in ((0.0, 2), (1e9, 5)):
        machine = Machine()
        program = machine.program("a", 1.0)
        (times,) = in_turns([program], machine.clocks, seconds, turns=(2, 5))  # type: ignore[list-item]
        assert len(times.processor) == turns


def test_a_fast_program_is_called_several_times_in_a_turn() -> None:
    machine = Machine()
    program = machine.program("a", 0.25)
    (times,) = in_turns([program], machine.clocks, 4.0, (2, 2), shortest=1.0)  # type: ignore[list-item]
    assert len(machine.order) == 2 + 2 * 4
    assert times.processor.tolist() == [0.25, 0.25]


def test_processor_time_is_that_of_one_thread() -> None:
    alone, several = Clocks.of(Target()), Clocks.of(Target(threads=2))
    assert alone.processor is not alone.wall
    assert several.processor is several.wall
