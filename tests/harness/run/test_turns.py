from __future__ import annotations

from harness.run.turns import Order


def test_turns_go_round_and_who_has_left_is_left_out() -> None:
    order = Order(["a", "b", "c"])
    assert [order.current, order.pass_on(), order.pass_on(), order.pass_on()] == ["a", "b", "c", "a"]
    assert not order.leave("b")  # it was not its turn
    assert order.pass_on() == "c"
    assert order.leave("c")  # who dies in its turn hands it on
    assert order.current == "a"
    assert order.pass_on() == "a"  # the last has every turn
    assert not order.leave("a")
    assert order.current is None
