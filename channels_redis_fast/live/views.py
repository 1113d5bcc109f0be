"""The live page and the data that it polls if it has no WebSocket. Read-only, and only for users that ``access``
permits."""

from __future__ import annotations

import hashlib
import socket
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, resolve_url
from django.template import Context, Engine
from django.urls import NoReverseMatch, reverse
from django.utils.http import urlencode

from .access import may_look
from .watch import current_frame

#: The page's files with their types. They are served from here, so nothing has to be collected, and a content security
#: policy that allows the site's own scripts allows these.
FILES = {"live.css": "text/css", "live.js": "text/javascript"}

_DIRECTORY = Path(__file__).resolve().parent / "page"

#: Not the site's own engine, so it does not depend on the site's template settings or on the order of its apps.
_ENGINE = Engine(dirs=[str(_DIRECTORY)])


def page(request: HttpRequest) -> HttpResponse:
    """The page itself. Visitors who have not logged in are redirected to the login."""
    user = getattr(request, "user", None)
    if not may_look(user):
        if user is None or user.is_authenticated:
            raise PermissionDenied
        return redirect(f"{_login_url()}?{urlencode({'next': request.get_full_path()})}")
    here = reverse("channels_redis_fast_live:page")
    files = {name.partition(".")[2]: f"{_url_of(name)}?v={_digest(name)}" for name in FILES}
    context = {
        **files,
        "frame": reverse("channels_redis_fast_live:frame"),
        "socket": f"{here}socket/",
        "host": socket.gethostname(),
    }
    response = HttpResponse(_ENGINE.get_template("live.html").render(Context(context)))
    host = request.get_host()
    # Names of channels and groups may come from a site's users; whatever they contain must not run as a script here.
    response.headers.setdefault(
        "Content-Security-Policy",
        f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws://{host} wss://{host}; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    )
    return response


def frame(request: HttpRequest) -> HttpResponse:
    """The current frame as JSON: the same that the WebSocket sends each second."""
    if not may_look(getattr(request, "user", None)):
        return JsonResponse({"error": "You may not look at this page any more: log in again."}, status=403)
    try:
        return HttpResponse(current_frame().text, content_type="application/json")
    except RuntimeError as error:
        return JsonResponse({"error": str(error)}, status=503)


def asset(request: HttpRequest, name: str) -> HttpResponse:
    """One of the page's files, which are the same for everybody."""
    if name not in FILES:
        raise Http404
    return HttpResponse(
        (_DIRECTORY / name).read_bytes(),
        content_type=f"{FILES[name]}; charset=utf-8",
        headers={"Cache-Control": "max-age=86400", "X-Content-Type-Options": "nosniff"},
    )


def _url_of(name: str) -> Any:
    return reverse("channels_redis_fast_live:asset", args=[name])


@lru_cache
def _digest(name: str) -> str:
    return hashlib.sha256((_DIRECTORY / name).read_bytes()).hexdigest()[:8]


def _login_url() -> Any:
    """Return the admin's login, where staff logs in, or the site's own if there is no admin."""
    try:
        return reverse("admin:login")
    except NoReverseMatch:
        return resolve_url(settings.LOGIN_URL)
