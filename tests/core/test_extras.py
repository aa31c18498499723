from __future__ import annotations

import pytest

from cortex.core.errors import ConfigError
from cortex.core.extras import check_extra


def test_what_is_there_may_be_used() -> None:
    check_extra("join", ("json", "ssl"), "joining")


def test_what_is_not_there_is_refused_with_what_to_install() -> None:
    with pytest.raises(ConfigError) as caught:
        check_extra("join", ("json", "no_such_module"), "joining a fleet")

    expected = "joining a fleet needs no_such_module, which is not installed; install it with: pip install"
    assert str(caught.value) == f"{expected} 'cortex-fleet[join]'"
