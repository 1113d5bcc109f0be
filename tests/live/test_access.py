"""Who may look at the live page, and that the admin links to it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.test import RequestFactory

from channels_redis_fast.live import views
from channels_redis_fast.live.access import find_rule, may_look
from tests.conftest import ROOT
from tests.live.conftest import STAFF, STRANGER, VISITOR, visit

Settings = Callable[..., None]


def request(user: Any, path: str = "/layers/") -> Any:
    made = RequestFactory().get(path)
    if user is not None:
        made.user = user
    return made


def is_named_ada(user: Any) -> bool:
    return getattr(user, "name", None) == "Ada"


def test_staff_alone_unless_the_settings_say_otherwise(settings: Settings) -> None:
    assert [may_look(user) for user in (STAFF, VISITOR, STRANGER, None)] == [True, False, False, False]
    settings(CHANNELS_REDIS_FAST={"LIVE_ACCESS": "superuser"})
    assert not may_look(STAFF)
    settings(CHANNELS_REDIS_FAST={"LIVE_ACCESS": f"{__name__}.is_named_ada"})
    STAFF.name = "Ada"
    assert [may_look(user) for user in (STAFF, VISITOR, None)] == [True, False, False]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"LIVE_ACCESS": "everybody"}, "'LIVE_ACCESS'. must be 'staff', 'superuser' or the dotted path"),
        ({"LIVE_ACCESS": "tests.live.nowhere"}, "'LIVE_ACCESS'.: "),
        ({"LIVE_MAX_KEYS": 0}, "'LIVE_MAX_KEYS'. must be a number of keys from 1 on; it is 0"),
        ({"LIVE_MAX_KEYS": True}, "it is True"),
    ],
)
def test_settings_that_are_wrong(settings: Settings, given: dict[str, Any], said: str) -> None:
    settings(CHANNELS_REDIS_FAST=given)
    with pytest.raises(ImproperlyConfigured, match=said):
        find_rule()


def test_the_page_is_one_that_loads_nothing_from_elsewhere(site: Settings) -> None:
    site()
    response = views.page(request(STAFF))
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "ws://testserver" in policy
    page = response.content.decode()
    for name in views.FILES:
        assert f"/layers/{name}?v=" in page
        text = views.asset(request(None), name).content.decode()
        assert "://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_others_see_nothing(site: Settings) -> None:
    site()
    with pytest.raises(PermissionDenied):
        views.page(request(VISITOR))
    with pytest.raises(PermissionDenied):
        # A site without users: nobody is staff.
        views.page(request(None))
    assert views.page(request(STRANGER)).headers["Location"] == "/accounts/login/?next=%2Flayers%2F"
    for user in (VISITOR, STRANGER, None):
        response = views.frame(request(user, "/layers/frame/"))
        assert response.status_code == 403
        assert set(json.loads(response.content)) == {"error"}


async def test_a_socket_is_for_the_same_people(site: Settings) -> None:
    site()
    for user in (VISITOR, STRANGER, None):
        assert (await visit(user).connect())[0] is False
    assert (await visit(STAFF, "http://elsewhere.test").connect())[0] is False
    socket = visit(STAFF)
    assert (await socket.connect())[0] is True
    await socket.disconnect()


def test_the_admin_links_to_the_page() -> None:
    """A site with users and an admin, as each kind of user sees it."""
    visits = [sys.executable, "-m", "tests.live.project.visits"]
    ended = subprocess.run(visits, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    login = "/admin/login/?next=%2Flayers%2F"
    assert json.loads(ended.stdout) == {
        "staff": {"page": [200, None], "frame": 200, "link": True, "users": True},
        "visitor": {"page": [403, None], "frame": 403, "link": False, "users": False},
        "nobody": {"page": [302, login], "frame": 403, "link": False, "users": False},
    }
