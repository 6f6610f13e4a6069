"""Numbers as text."""

from __future__ import annotations

import pytest

from pipeline.formatting import LEVEL, counted, fixed, number, share, signed, signed_fixed, thousands


def test_what_is_unknown_is_null_and_not_zero() -> None:
    assert {number(None), signed(None), fixed(None, 2), signed_fixed(None, 2), share(None)} == {"NULL"}
    assert fixed(None, 2, unknown="") == ""


@pytest.mark.parametrize(
    ("value", "as_number", "as_signed", "as_fixed", "as_signed_fixed", "as_share"),
    [
        (0.0, "0", "0", "0.00", "0", "0%"),
        (0.123456, "0.1235", "+0.1235", "0.12", "+0.12", "12%"),
        (-0.001, "-0.001", "-0.001", "-0.00", "0", "-0%"),
        (12345.6, "1.235e+04", "+1.235e+04", "12345.60", "+12345.60", "1234560%"),
    ],
)
def test_a_number_in_each_form(
    value: float, as_number: str, as_signed: str, as_fixed: str, as_signed_fixed: str, as_share: str
) -> None:
    assert (number(value), signed(value), fixed(value, 2)) == (as_number, as_signed, as_fixed)
    assert (signed_fixed(value, 2), share(value)) == (as_signed_fixed, as_share)


def test_counts_have_commas_and_a_plural_unless_they_are_one() -> None:
    assert (thousands(1234567), counted(1, "part"), counted(0, "part")) == ("1,234,567", "1 part", "0 parts")
    assert counted(2000, "new token") == "2,000 new tokens"


def test_the_level_is_printed_as_a_percentage() -> None:
    assert LEVEL == "95%"
