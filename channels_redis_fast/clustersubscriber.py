"""temporary"""
from typing import Any
class ClusterSubscriber:
    is_open = 0
    def __init__(self, cluster, on_message, on_lost, on_back, on_subscribed): pass
    def subscribe(self, name): return None
    def unsubscribe(self, name): pass
    async def stop(self): pass
