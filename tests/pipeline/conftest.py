"""Asserts in what these tests share say what differs."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("outcomes")
