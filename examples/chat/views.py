"""The lobby, and a room with what was said in it so far."""

from urllib.parse import urlencode

from channels.layers import get_channel_layer
from django.shortcuts import redirect, render


def lobby(request):
    """Ask for a name and a room. A site with users would know the name, and this would be a login."""
    if request.GET.get("name") and request.GET.get("room"):
        return redirect(f"/room/{request.GET['room']}/?{urlencode({'name': request.GET['name'][:30]})}")
    return render(request, "lobby.html", {"rooms": ["lobby", "kitchen", "garden"]})


async def room(request, room):
    """A page that misses nothing: it brings the last messages, and the position up to where it has them."""
    name = request.GET.get("name", "")[:30]
    if not name:
        return redirect("/")
    history = await get_channel_layer().group_history(f"room.{room}", limit=50)
    # Who came and went is in the history as well.
    messages = [message for message in history.messages if message["type"] == "room.said"]
    said = [{field: message[field] for field in ("id", "name", "text", "at")} for message in messages]
    context = {"room": room, "name": name, "start": {"said": said, "position": history.position}}
    return render(request, "room.html", context)


def anybody(user):
    """Let anybody look at the live page."""
    return True
