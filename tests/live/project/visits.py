"""Visits of the site with an admin, by each kind of user; prints what they saw as JSON. `python -m` runs it."""

from __future__ import annotations

import json
import os

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.live.project.settings"
django.setup()

from django.contrib.auth.models import Permission, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402

call_command("migrate", verbosity=0)
staff = User.objects.create_user("staff", is_staff=True)
staff.user_permissions.add(Permission.objects.get(codename="view_user"))
User.objects.create_user("visitor")

seen = {}
for name in ("staff", "visitor", None):
    client = Client()
    if name is not None:
        client.force_login(User.objects.get(username=name))
    page, frame, index = (client.get(path) for path in ("/layers/", "/layers/frame/", "/admin/"))
    seen[name or "nobody"] = {
        "page": [page.status_code, page.headers.get("Location")],
        "frame": frame.status_code,
        "link": 'href="/layers/"' in index.content.decode(),
        # What else the admin lists is there as before.
        "users": "/admin/auth/user/" in index.content.decode(),
    }
print(json.dumps(seen))
