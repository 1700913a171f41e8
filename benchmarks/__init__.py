"""Measurements; run with `make bench`. Never part of the tests."""
