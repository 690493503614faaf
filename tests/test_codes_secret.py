"""The secrets of enrollment codes: how random, how legible, and which slips the check character finds."""

import math

import pytest

from cmpd.cli.secret import ALPHABET, RANDOM_BITS, check_fits, is_of_own_form, new_reference, new_secret, rewritten

SAMPLE = [new_secret() for _ in range(40)]
PLACES = [place for place in range(34) if place % 5 != 4]
"""Where a secret has characters and not hyphens."""


def test_a_secret_has_at_least_128_random_bits_in_an_alphabet_without_look_alikes() -> None:
    assert len(ALPHABET) == len(set(ALPHABET)) == 32
    assert not set("01IOl") & set(ALPHABET)
    assert RANDOM_BITS == (len(PLACES) - 1) * math.log2(len(ALPHABET)) >= 128
    assert len({new_secret() for _ in range(1000)}) == 1000


def test_every_character_appears_at_every_place() -> None:
    """Also at that of the check character; missing one of 27 × 32 by chance is a matter of 10⁻²⁵."""
    many = [new_secret() for _ in range(3000)]
    for place in PLACES:
        assert {secret[place] for secret in many} == set(ALPHABET), place


def test_a_secret_is_seven_groups_of_four_and_its_check_character_fits() -> None:
    for secret in SAMPLE:
        assert [len(group) for group in secret.split("-")] == [4] * 7
        assert is_of_own_form(secret)
        assert check_fits(secret)


def test_every_single_wrong_character_is_found() -> None:
    """Each place, each other character."""
    for secret in SAMPLE:
        for place in PLACES:
            for character in ALPHABET.replace(secret[place], ""):
                assert not check_fits(secret[:place] + character + secret[place + 1 :])


def test_every_two_that_have_changed_places_are_found() -> None:
    """Neighbours and others, over a hyphen too, and with the check character."""
    for secret in SAMPLE:
        for first in PLACES:
            for second in PLACES:
                if secret[first] != secret[second]:
                    swapped = list(secret)
                    swapped[first], swapped[second] = secret[second], secret[first]
                    assert not check_fits("".join(swapped))


def test_neighbours_are_found_for_every_pair_of_characters() -> None:
    """The 992 pairs of different characters, at every two neighbouring places; the rest of the secret cancels out."""
    fits = SAMPLE[0].replace("-", "")
    for place in range(27):
        for one in ALPHABET:
            for other in ALPHABET.replace(one, ""):
                begin = fits[:place] + one + other + fits[place + 2 :]
                swapped = fits[:place] + other + one + fits[place + 2 :]
                one_form, other_form = rewritten(begin), rewritten(swapped)
                assert one_form is not None
                assert other_form is not None
                assert not (check_fits(one_form) and check_fits(other_form))


@pytest.mark.parametrize(
    "wrong",
    ["", "ABCD", SAMPLE[0] + "-2345", SAMPLE[0][:-1], SAMPLE[0].replace("-", ""), SAMPLE[0][:-1] + "0"],
    ids=["nothing", "one group", "another group", "a character less", "no hyphens", "no such character"],
)
def test_what_has_another_form_does_not_fit(wrong: str) -> None:
    assert not is_of_own_form(wrong)
    assert not check_fits(wrong)


def test_what_was_typed_is_written_as_it_must_be() -> None:
    secret = SAMPLE[0]
    for typed in (
        secret,
        secret.lower(),
        secret.replace("-", ""),
        secret.replace("-", " "),
        secret.replace("-", "\u2013"),
    ):
        assert rewritten(typed) == secret
    for other in ("", secret + "A", secret[:-1], "0" + secret[1:], "ß" * 28):
        assert rewritten(other) is None


def test_references_are_not_the_same_twice() -> None:
    assert len({new_reference() for _ in range(1000)}) == 1000
    assert len(new_reference()) == 10
