"""Compare before write: when nothing needs writing, and the smallest patch when something does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway.act.compare import merge_patch, says

KEYS = st.sampled_from("abcd")
# A merge patch cannot say null: a status is dumped without nulls.
SCALARS = st.one_of(st.booleans(), st.integers(-3, 3), st.text("xyz", max_size=2))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)


def applied(old: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """RFC 7386, section 2, as it stands there."""
    result = copy.deepcopy(old)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            held = result.get(key)
            result[key] = applied(held if isinstance(held, dict) else {}, value)
        else:
            result[key] = value
    return result


@given(OBJECTS, OBJECTS)
def test_patch_turns_old_into_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert applied(old, merge_patch(old, new)) == new


@given(OBJECTS)
def test_nothing_is_patched_where_nothing_changed(old: dict[str, Any]) -> None:
    assert merge_patch(old, copy.deepcopy(old)) == {}


def test_patch_names_only_what_changed() -> None:
    old = {"a": {"b": 1, "c": 2}, "list": [1, 2], "gone": 1}
    new = {"a": {"b": 1, "c": 3}, "list": [1], "came": {}}
    assert merge_patch(old, new) == {"a": {"c": 3}, "list": [1], "gone": None, "came": {}}


@given(OBJECTS, OBJECTS)
def test_an_object_says_what_was_merged_into_it(old: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert says({**old, **wanted}, wanted)


@pytest.mark.parametrize(
    ("live", "wanted", "expected"),
    [
        ({"spec": {"replicas": 1, "paused": False}}, {"spec": {"replicas": 1}}, True),
        ({"spec": {"replicas": 1}}, {"spec": {"replicas": 2}}, False),
        ({"spec": {}}, {"spec": {"replicas": 0}}, False),
        ({"ports": [{"port": 80, "protocol": "TCP"}]}, {"ports": [{"port": 80}]}, True),
        ({"ports": [{"port": 80}, {"port": 81}]}, {"ports": [{"port": 80}]}, False),
        ({"args": ["b", "a"]}, {"args": ["a", "b"]}, False),
        ({"args": "a"}, {"args": ["a"]}, False),
        ({"labels": None}, {"labels": {"a": "b"}}, False),
    ],
)
def test_says(live: dict[str, Any], wanted: dict[str, Any], expected: bool) -> None:
    assert says(live, wanted) is expected
