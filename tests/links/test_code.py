"""Which codes are drawn, and which may be chosen."""

import re

import pytest

from urlshortener.errors import InvalidCode
from urlshortener.links.code import RESERVED, check_chosen, could_be_a_link, draw


def test_a_drawn_code_has_eight_letters_and_digits() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9]{8}", draw()) for _ in range(1000))


def test_every_letter_and_digit_is_drawn_and_no_code_twice() -> None:
    codes = {draw() for _ in range(2000)}
    assert len(codes) == 2000
    assert len(set("".join(codes))) == 62


def test_no_word_of_the_service_can_be_drawn() -> None:
    assert not [word for word in RESERVED if re.fullmatch(r"[A-Za-z0-9]{8}", word)]


@pytest.mark.parametrize("code", ["cat", "Cat-1_2", "x" * 64, "---", "apis", "api-v1"])
def test_a_caller_may_choose(code: str) -> None:
    assert check_chosen(code) == code
    assert could_be_a_link(code)


@pytest.mark.parametrize(
    "code", ["", "ab", "x" * 65, "a b c", "cät", "cat\n", "a/b", "a.b", "c\0at", "\ud800ab", "४५६"]
)
def test_a_caller_may_not_choose(code: str) -> None:
    with pytest.raises(InvalidCode):
        check_chosen(code)


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_the_words_of_the_service_are_kept_in_any_case(word: str) -> None:
    for code in (word, word.upper(), word.title()):
        with pytest.raises(InvalidCode):
            check_chosen(code)
