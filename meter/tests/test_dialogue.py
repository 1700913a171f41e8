"""The household's request: it insists, but not for ever, and every ending has a name."""

from __future__ import annotations

import random

import pytest

from meter.dialogue import _TABLE, Dialogue, DialogueSettings, Happening, State


def dialogue(**changes: float) -> Dialogue:
    return Dialogue(random.Random(2), DialogueSettings(**changes))  # type: ignore[arg-type]


def in_state(state: State, now: float = 0.0) -> Dialogue:
    """A dialogue brought into a state by what really leads there."""
    made = dialogue()
    if state is not State.IDLE:
        made.wish(2400.0, 2000.0, now)
        assert made.ask_now(now)
    if state in {State.GRANTED, State.CHANGING}:
        made.happens(Happening.GRANTED, now)
    if state is State.CHANGING:
        made.wish(1800.0, 1800.0, now)
    if state is State.DENIED:
        made.happens(Happening.DENIED, now)
    assert made.state is state
    return made


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("what", list(Happening))
def test_what_is_not_in_the_table_changes_nothing(state: State, what: Happening) -> None:
    """Each state against each happening: either the table's next state, or the state before."""
    tested = in_state(state)
    before = (tested.state, tested.wake_at, tested.request_id, tested.outcome)
    known = (state, what) in _TABLE
    assert tested.happens(what, 100.0) is known
    if known:
        assert tested.state is _TABLE[state, what][0]
    else:
        assert (tested.state, tested.wake_at, tested.request_id, tested.outcome) == before


def test_a_question_is_repeated_with_doubling_pauses_and_the_same_number() -> None:
    """5, 10, 20, 40, then 60 s at most; the request id stays."""
    tested = dialogue(attempts_max=6)
    tested.wish(2400.0, 2400.0, 0.0)
    number = tested.request_id
    asked = []
    for second in range(400):
        if tested.ask_now(float(second)):
            asked.append(second)
            assert tested.request_id == number
    assert asked == [0, 5, 15, 35, 75, 135]
    assert (tested.state, tested.outcome, tested.wake_at) == (State.IDLE, Happening.GAVE_UP, None)


def test_a_wish_whose_grant_ended_by_itself_is_asked_anew() -> None:
    """A new request id, at once, until somebody answers."""
    tested = in_state(State.GRANTED)
    number = tested.request_id
    assert tested.happens(Happening.ENDED, 60.0)
    assert tested.state is State.ASKING
    assert tested.request_id != number
    assert tested.wake_at == 60.0


@pytest.mark.parametrize("what", [Happening.REVOKED, Happening.RELEASED, Happening.FELL_BACK])
@pytest.mark.parametrize("state", [State.ASKING, State.GRANTED])
def test_revoke_release_and_a_local_fault_end_the_wish(state: State, what: Happening) -> None:
    """Nothing is asked any more until the household asks."""
    tested = in_state(state)
    assert tested.happens(what, 1.0)
    assert (tested.state, tested.wake_at, tested.wished, tested.outcome) == (State.IDLE, None, False, what)


def test_a_denied_household_has_to_wait_before_it_asks_again() -> None:
    """The next question leaves when the cool-down is over, and a link that comes back does not shorten it."""
    tested = in_state(State.DENIED, now=10.0)
    assert tested.wish(2400.0, 2400.0, 11.0)
    assert tested.wake_at == 15.0
    assert tested.happens(Happening.LISTENED, 12.0)
    assert tested.happens(Happening.GREETED, 12.0)
    assert not tested.ask_now(14.9)
    assert tested.ask_now(15.0)


def test_after_the_cool_down_a_denied_household_asks_at_once() -> None:
    """A denial is an answer to one question, not a ban."""
    tested = in_state(State.DENIED, now=10.0)
    tested.wish(2400.0, 2400.0, 100.0)
    assert tested.wake_at == 100.0


def test_many_households_that_come_back_at_once_do_not_ask_at_once() -> None:
    """A hundred wishes stand when the DCU is there again: all ask within the window, spread over it, each once."""
    first_s = []
    for seed in range(100):
        tested = Dialogue(random.Random(seed), DialogueSettings(return_spread_s=30.0))
        tested.wish(2400.0, 2400.0, 0.0)
        assert tested.ask_now(0.0)
        tested.happens(Happening.LISTENED, 600.0)
        chosen = tested.wake_at
        tested.happens(Happening.LISTENED, 600.1)
        assert tested.wake_at == chosen, "a second word of the DCU chooses no other moment"
        assert chosen is not None
        first_s.append(chosen - 600.0)
    assert 0.0 <= min(first_s) < 3.0
    assert 27.0 < max(first_s) <= 30.0
    assert max(sum(second <= at < second + 1.0 for at in first_s) for second in range(30)) <= 12


def test_a_fresh_wish_is_asked_at_once() -> None:
    """The window is for wishes that stood while nobody listened; and the first greeting of a boot is no gap."""
    tested = dialogue(return_spread_s=600.0)
    tested.happens(Happening.LISTENED, 5.0)
    tested.wish(2400.0, 2400.0, 5.0)
    assert tested.ask_now(5.0)
    tested.happens(Happening.GREETED, 5.2)
    assert tested.ask_now(5.2)


def test_a_change_keeps_the_old_grant_until_the_new_one_is_given() -> None:
    """Both numbers are wanted meanwhile; afterwards only the new one."""
    tested = in_state(State.GRANTED)
    old = tested.request_id
    assert tested.wish(1800.0, 1800.0, 1.0)
    new = tested.request_id
    assert (tested.state, tested.wishes(old), tested.wishes(new)) == (State.CHANGING, True, True)
    assert tested.wish(1500.0, 1500.0, 2.0)
    newest = tested.request_id
    assert [tested.wishes(number) for number in (old, new, newest)] == [True, False, True]
    tested.happens(Happening.GRANTED, 3.0)
    assert [tested.wishes(number) for number in (old, newest)] == [False, True]
    assert (tested.state, tested.limit_w) == (State.GRANTED, 1500.0)


@pytest.mark.parametrize("what", [Happening.DENIED, Happening.GAVE_UP])
def test_a_change_that_is_not_to_be_had_leaves_the_old_wish(what: Happening) -> None:
    """Its limit, its number, and that it is asked anew when its grant ends by itself; the answer is remembered."""
    tested = in_state(State.CHANGING)
    assert tested.kept is not None
    old = tested.kept
    assert tested.happens(what, 10.0)
    assert (tested.state, tested.outcome, tested.wake_at) == (State.GRANTED, what, None)
    assert tested.kept is not old
    assert (tested.limit_w, tested.minimum_limit_w, tested.request_id) == (
        old.limit_w,
        old.minimum_limit_w,
        old.request_id,
    )
    tested.wish(1700.0, 1700.0, 11.0)
    assert tested.wake_at == (15.0 if what is Happening.DENIED else 11.0), "a denial has its cool-down"


def test_a_change_outlives_the_end_of_the_old_grant() -> None:
    """The question that is open stays open under its number; the old one is over."""
    tested = in_state(State.CHANGING)
    assert tested.kept is not None
    old, new, ask_at = tested.kept.request_id, tested.request_id, tested.wake_at
    assert tested.happens(Happening.ENDED, 20.0)
    assert (tested.state, tested.request_id, tested.wake_at) == (State.ASKING, new, ask_at)
    assert (tested.wishes(old), tested.wishes(new)) == (False, True)


@pytest.mark.parametrize("what", [Happening.REVOKED, Happening.RELEASED, Happening.FELL_BACK])
def test_nothing_is_kept_beyond_the_end_of_a_change(what: Happening) -> None:
    """A release during a change gives back both."""
    tested = in_state(State.CHANGING)
    assert tested.kept is not None
    old = tested.kept.request_id
    assert tested.happens(what, 1.0)
    assert (tested.state, tested.wishes(old), tested.wishes(tested.request_id)) == (State.IDLE, False, False)


def test_a_lowering_voids_the_open_question_so_it_is_asked_again() -> None:
    """Its nonce is void with all others; the grant itself goes on."""
    tested = in_state(State.CHANGING)
    assert tested.ask_now(0.0)
    assert tested.happens(Happening.LOWERED, 1.0)
    assert tested.ask_now(1.0)
    granted = in_state(State.GRANTED)
    assert granted.happens(Happening.LOWERED, 1.0)
    assert (granted.state, granted.wake_at, granted.outcome) == (State.GRANTED, None, Happening.LOWERED)


def test_when_somebody_listens_again_the_question_goes_out_anew() -> None:
    """Attempts that nobody could hear do not count."""
    tested = dialogue(attempts_max=2, return_spread_s=0.0)
    tested.wish(2400.0, 2400.0, 0.0)
    assert tested.ask_now(0.0)
    assert tested.ask_now(5.0)
    assert tested.happens(Happening.LISTENED, 6.0)
    assert tested.ask_now(6.0)
    assert tested.state is State.ASKING


def test_the_same_wish_again_changes_nothing() -> None:
    """An impatient finger does not fill the power line; another limit is another wish."""
    tested = in_state(State.ASKING)
    number = tested.request_id
    assert not tested.wish(2400.0, 2000.0, 1.0)
    assert tested.request_id == number
    assert tested.wish(2000.0, 2000.0, 1.0)
    assert tested.request_id != number


def test_listening_is_no_outcome() -> None:
    """What the household is told stays what happened to its wish."""
    tested = in_state(State.ASKING)
    tested.happens(Happening.LISTENED, 1.0)
    assert tested.outcome is Happening.ASKED
