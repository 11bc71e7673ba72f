"""A cache that stays within its limit."""

from __future__ import annotations

from service.latency.bounded_cache import BoundedCache


def test_what_was_used_longest_ago_goes_first() -> None:
    cache: BoundedCache[str, int] = BoundedCache(3)
    for number, key in enumerate("abc"):
        cache.put(key, number, 1)
    assert cache.get("a") == 0
    cache.put("d", 3, 1)
    assert [key in cache for key in "abcd"] == [True, False, True, True]


def test_weights_count() -> None:
    cache: BoundedCache[str, int] = BoundedCache(10)
    cache.put("a", 1, 6)
    cache.put("a", 2, 4)
    cache.put("b", 3, 6)
    assert (cache.get("a"), cache.get("b")) == (2, 3)
    cache.put("c", 4, 100)
    assert [key in cache for key in "abc"] == [False, False, True]
    cache.put("d", 5, 1)
    assert [key in cache for key in "cd"] == [False, True]
    cache.clear()
    assert cache.get("d") is None
